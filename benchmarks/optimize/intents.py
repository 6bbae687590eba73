"""The six tiers on CLINC150: one command's front, each version against its teacher and the fp32 graph."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import Figure, Result, figure
from benchmarks.texts import SHARED
from tremplin.machine import read_machine
from tremplin.optimize.bundled import import_bundled
from tremplin.optimize.measure import BRIEF
from tremplin.optimize.publish import import_and_publish
from tremplin.optimize.recipes.corpus import Corpus, read_corpus
from tremplin.optimize.recipes.runner import first_stage
from tremplin.optimize.recipes.steps import Workshop
from tremplin.optimize.recipes.study import Study, StudyOptions, as_json, run_study
from tremplin.optimize.recipes.tiers import CASCADE, TIERS
from tremplin.registry.store import Registry

DATA = SHARED / "clinc150"
SMALL_LETTERS = {"lossless": "A", "balanced": "B", "small": "C", "tiny": "D", "cascade": "E", "instant": "F"}
# Of FACTS A3: most MB, least speed alone and in 32, most points lost, most points of the bound (None: not asked).
GOALS: dict[str, tuple[float | None, float | None, float | None, float | None, float | None]] = {
    "lossless": (24.0, 2.0, 2.0, 0.2, 0.4),
    "balanced": (10.0, 4.0, 4.0, 0.3, 0.6),
    "small": (6.2, 7.0, 8.0, 1.2, None),
    "tiny": (4.3, 20.0, 60.0, 3.0, None),
    "instant": (None, None, None, 0.8, None),
}


def corpus(*, seed: int = 0) -> Corpus:
    """Return CLINC150: 15,000 texts to learn from, 3,000 to choose on, 4,500 to report on, 1,000 out of scope."""
    return read_corpus(
        DATA / "train.jsonl",
        validation=DATA / "val.jsonl",
        test=DATA / "test.jsonl",
        out_of_scope=DATA / "oos_test.jsonl",
        label_column="intent",
        seed=seed,
    )


def run(rounds: int = 5, *, folder: Path | None = None) -> Result:
    """Work the tiers in a fresh folder (or go on in one) and hold each against its goal."""
    if not DATA.is_dir():
        raise SystemExit("CLINC150 is not here (../shared/data/clinc150): nothing to measure with.")
    # Named, a study goes on where it was; its time is then not that of the whole.
    place = folder or Path(os.environ.get("TREMPLIN_STUDY") or tempfile.mkdtemp(prefix="tremplin-intents-"))
    started = time.monotonic()
    study, texts = _study(place, rounds)
    minutes = (time.monotonic() - started) / 60
    (place / "figures.json").write_text(json.dumps(as_json(study), indent=1, ensure_ascii=False))
    figures = [figure("whole pipeline, all tiers", [minutes], "min", at_most=30)]
    for entry in as_json(study)["entries"]:
        figures += _figures(entry)
    return Result(
        scenario="Optimising: intents, six tiers",
        setting=(
            f"CLINC150, {len(texts.train)} training texts, {len(texts.labels)} labels, {len(texts.test)} judged; "
            f"training on all cores, measured with one thread: text in, answer out, the same texts in turn, "
            f"{rounds} rounds. Faster than: the fp32 graph of the fine-tuned teacher. Loss in points against the "
            "teacher; 'at most' is its one-sided 95 % bound."
        ),
        figures=figures,
        notes=_notes(study, place),
    )


def _study(place: Path, rounds: int) -> tuple[Study, Corpus]:
    registry = Registry(place / "registry")
    machine = read_machine()
    versions = registry.versions("minilm")
    source = versions[0] if versions else import_and_publish(
        registry, import_bundled, "minilm", machine, effort=BRIEF
    )  # fmt: skip
    texts = corpus()
    workshop = Workshop(texts, machine.cores, 0, _told)
    start = first_stage(registry, source, place / "stages")
    options = StudyOptions(allowed_points=0.6, race_rounds=rounds)
    return run_study(TIERS, start, place, workshop, options, cascades=(CASCADE,), progress=_told), texts


_last = [0.0]


def _told(step: str, share: float) -> None:
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
        figure(f"{shown}: faster alone", entry["faster_alone"], "x", at_least=alone),
        figure(f"{shown}: faster in 32", entry["faster_batched"], "x", at_least=batched),
        figure(f"{shown}: p50 alone", [entry["speed"]["p50_ms"]], "ms"),
        figure(f"{shown}: p95 alone", [entry["speed"]["p95_ms"]], "ms"),
        figure(f"{shown}: out-of-scope AUROC", [100 * metrics["out_of_scope_auroc"]["value"]], "%"),
        figure(f"{shown}: calibration error", [100 * metrics["expected_calibration_error"]["value"]], "points"),
        figure(
            f"{shown}: answers flipped by batch", [metrics["answers_flipped_by_batch"]["value"]], "", at_most=0.0
        ),
    ]
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


def _notes(study: Study, place: Path) -> list[str]:
    notes = []
    for entry in study.entries:
        seconds = sum(record.seconds for record in entry.stage.lineage)
        notes.append(f"{entry.name}: {' -> '.join(entry.steps)}; {seconds:.0f} s of work, shared steps included.")
    return notes
