"""The six tiers on a set of labelled texts: a front, its versions against their teacher and one-liners."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.optimize import one_liners
from benchmarks.record import Figure, Result, figure
from benchmarks.texts import SHARED
from tremplin.machine import read_machine
from tremplin.optimize.bundled import import_bundled
from tremplin.optimize.measure import BRIEF
from tremplin.optimize.publish import import_and_publish
from tremplin.optimize.race import Runner, race
from tremplin.optimize.recipes.corpus import Corpus, read_corpus
from tremplin.optimize.recipes.runner import first_stage
from tremplin.optimize.recipes.steps import Workshop
from tremplin.optimize.recipes.study import RACE_TEXTS, Study, StudyOptions, as_json, run_study
from tremplin.optimize.recipes.tiers import CASCADE, TIERS
from tremplin.registry.store import Registry
from tremplin.serve.engines.catalogue import EngineName, EngineSpec

SMALL_LETTERS = {"lossless": "A", "balanced": "B", "small": "C", "tiny": "D", "cascade": "E", "instant": "F"}
# Of FACTS A3: most MB, least speed alone and in 32, most points lost, most points of the bound (None: not asked).
GOALS: dict[str, tuple[float | None, float | None, float | None, float | None, float | None]] = {
    "lossless": (24.0, 2.0, 2.0, 0.2, 0.4),
    "balanced": (10.0, 4.0, 4.0, 0.3, 0.6),
    "small": (6.2, 7.0, 8.0, 1.2, None),
    "tiny": (4.3, 20.0, 60.0, 3.0, None),
    "instant": (None, None, None, 0.8, None),
}


@dataclass(frozen=True)
class Texts:
    """Where a set of labelled texts lies, and what it is called."""

    title: str
    folder: Path
    label_column: str
    out_of_scope: str = ""

    def corpus(self) -> Corpus:
        """Return the texts by what they are for."""
        if not self.folder.is_dir():
            raise SystemExit(
                f"{self.title} is not here (../shared/data/{self.folder.name}): nothing to measure with."
            )
        return read_corpus(
            self.folder / "train.jsonl",
            validation=self.folder / "val.jsonl",
            test=self.folder / "test.jsonl",
            out_of_scope=self.folder / self.out_of_scope if self.out_of_scope else None,
            label_column=self.label_column,
        )


INTENTS = Texts("CLINC150", SHARED / "clinc150", "intent", "oos_test.jsonl")
SENTIMENT = Texts("Sentiment Labelled Sentences", SHARED / "uci_sentiment", "label")


def run(texts: Texts, rounds: int = 5) -> Result:
    """Work the tiers in a fresh folder and hold each against its goal.

    In a folder named by TREMPLIN_STUDY a study goes on where it was; its time is then not that of the whole.
    """
    corpus = texts.corpus()
    place = Path(os.environ.get("TREMPLIN_STUDY") or tempfile.mkdtemp(prefix="tremplin-tiers-"))
    started = time.monotonic()
    study = _study(corpus, place, rounds)
    minutes = (time.monotonic() - started) / 60
    spent = [
        figure("this command", [minutes], "min"),
        figure("all steps, each worked once", [_worked_s(study) / 60], "min", at_most=30),
    ]
    figures = spent + [row for entry in as_json(study)["entries"] for row in _figures(entry)]
    figures += _one_liners(study, corpus, place, rounds)
    return Result(
        scenario=f"Optimising: six tiers on {texts.title}",
        setting=(
            f"{texts.title}, {len(corpus.train)} training texts, {len(corpus.labels)} labels, "
            f"{len(corpus.test)} judged; training on all cores, measured with one thread: text in, answer out, "
            f"the same texts in turn, {rounds} rounds. Faster than: the fp32 graph of the fine-tuned teacher. "
            "Loss in points against the teacher; 'at most' is its one-sided 95 % bound."
        ),
        figures=figures,
        notes=_notes(study),
    )


def _worked_s(study: Study) -> float:
    """Return the seconds of all steps; recipes that begin alike share theirs."""
    seconds: dict[tuple[str, ...], float] = {}
    for entry in study.entries:
        steps: tuple[str, ...] = ()
        for record in entry.stage.lineage:
            steps = (*steps, record.step)
            seconds[steps] = record.seconds
    return sum(seconds.values())


def _study(corpus: Corpus, place: Path, rounds: int) -> Study:
    registry = Registry(place / "registry")
    machine = read_machine()
    versions = registry.versions("minilm")
    source = versions[0] if versions else import_and_publish(
        registry, import_bundled, "minilm", machine, effort=BRIEF
    )  # fmt: skip
    workshop = Workshop(corpus, machine.cores, 0, told)
    start = first_stage(registry, source, place / "stages")
    options = StudyOptions(allowed_points=0.6, race_rounds=rounds, flip_rows=len(corpus.test))
    return run_study(TIERS, start, place, workshop, options, cascades=(CASCADE,), progress=told)


_last = [0.0]


def told(step: str, share: float) -> None:
    if time.monotonic() - _last[0] > 20:
        _last[0] = time.monotonic()
        print(f"  {share:4.0%} {step}", flush=True)


def _figures(entry: dict[str, Any]) -> list[Figure]:
    name = entry["name"]
    shown = f"{SMALL_LETTERS[name]} {name}" if name in SMALL_LETTERS else name
    size, alone, batched, loss, bound = GOALS.get(name, (None,) * 5)
    metrics = {metric["name"]: metric for metric in entry["metrics"]}
    found = [
        figure(f"{shown}: accuracy", [100 * metrics["accuracy"]["value"]], "%"),
        figure(f"{shown}: size with tokenizer", [entry["size_bytes"] / 1e6], "MB", at_most=size),
        figure(f"{shown}: peak memory", [entry["memory_bytes"] / 1e6], "MB"),
        figure(f"{shown}: faster alone", entry["faster_alone"], "x", at_least=alone),
        figure(f"{shown}: faster in 32", entry["faster_batched"], "x", at_least=batched),
        figure(f"{shown}: p50 alone", [entry["speed"]["p50_ms"]], "ms"),
        figure(f"{shown}: p95 alone", [entry["speed"]["p95_ms"]], "ms"),
        figure(f"{shown}: calibration error", [100 * metrics["expected_calibration_error"]["value"]], "points"),
        figure(
            f"{shown}: answers flipped by batch", [metrics["answers_flipped_by_batch"]["value"]], "", at_most=0.0
        ),
    ]
    if "out_of_scope_auroc" in metrics:
        found.append(figure(f"{shown}: out-of-scope AUROC", [100 * metrics["out_of_scope_auroc"]["value"]], "%"))
    if entry["loss"] is not None:
        found += [
            figure(f"{shown}: loss", [entry["loss"]["points"]], "points", at_most=loss),
            figure(f"{shown}: loss, at most", [entry["loss"]["upper"]], "points", at_most=bound),
        ]
    if "escalated_out_of_scope" in entry["facts"]:
        found += [
            figure(f"{shown}: escalated", [100 * entry["facts"]["escalated_test"]], "%"),
            figure(
                f"{shown}: escalated out of scope",
                [100 * entry["facts"]["escalated_out_of_scope"]],
                "%",
                at_least=95,
            ),
        ]
    return found


def _one_liners(study: Study, texts: Corpus, place: Path, rounds: int) -> list[Figure]:
    """Return what documented one-liners make of the same teacher, raced beside the reference and our own."""
    teacher = study.reference
    made = {"onnxruntime quantize_dynamic": one_liners.quantize_dynamic(teacher, place)}
    if (nncf := one_liners.nncf_quantize(teacher, texts, place)) is not None:
        made["nncf.quantize on OpenVINO"] = nncf
    tokenizer, interface = teacher.stage.tokenizer, teacher.finished.interface
    plain = EngineSpec(EngineName.ONNX_RUNTIME, str(teacher.graph), 1)
    runners = [Runner("fp32", plain, tokenizer, interface)]
    runners += [Runner(name, spec, tokenizer, interface) for name, spec in made.items()]
    results = race(runners, list(texts.test.texts[:RACE_TEXTS]), rounds=rounds)
    figures = []
    for result, (name, spec) in zip(results[1:], made.items(), strict=True):
        accuracy, loss = one_liners.loss_of(spec, teacher, texts)
        size = Path(spec.model).stat().st_size
        alone, batched = result.against(results[0])
        figures += [
            figure(f"one-liner {name}: accuracy", [100 * accuracy], "%"),
            figure(f"one-liner {name}: loss", [loss.points], "points"),
            figure(f"one-liner {name}: loss, at most", [loss.upper], "points"),
            figure(f"one-liner {name}: size with tokenizer", [(size + tokenizer.stat().st_size) / 1e6], "MB"),
            figure(f"one-liner {name}: faster alone", alone, "x"),
            figure(f"one-liner {name}: faster in 32", batched, "x"),
        ]
    return figures


def _notes(study: Study) -> list[str]:
    notes = []
    for entry in study.entries:
        spent = ", ".join(f"{record.step} {record.seconds:.0f} s" for record in entry.stage.lineage[1:])
        notes.append(f"{entry.name}: {spent}.")
    return notes
