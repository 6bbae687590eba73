"""Students of an encoder for search: SciFact's claims find its abstracts."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.optimize.tiers import told
from benchmarks.record import Figure, Result, figure
from benchmarks.texts import SHARED
from tremplin.machine import read_machine
from tremplin.optimize.bundled import import_bundled
from tremplin.optimize.gate import Gate
from tremplin.optimize.measure import BRIEF
from tremplin.optimize.publish import import_and_publish
from tremplin.optimize.recipes.corpus import read_text_corpus
from tremplin.optimize.recipes.evidence import EncoderExaminer
from tremplin.optimize.recipes.runner import first_stage
from tremplin.optimize.recipes.search_set import NDCG, read_search_set
from tremplin.optimize.recipes.steps import Workshop
from tremplin.optimize.recipes.study import StudyOptions, as_json, run_study
from tremplin.optimize.recipes.tiers import ENCODER_TIERS
from tremplin.registry.store import Registry

DATA = SHARED / "scifact"
SENTENCES = 8_000
SENTENCE_END = re.compile(r"(?<=[.!?]) ")


def run(rounds: int = 3) -> Result:
    """Make students on sentences of the abstracts, without any label, and judge each on the test claims."""
    if not DATA.is_dir():
        raise SystemExit("SciFact is not here (../shared/data/scifact): nothing to measure with.")
    place = Path(os.environ.get("TREMPLIN_STUDY") or tempfile.mkdtemp(prefix="tremplin-search-"))
    started = time.monotonic()
    registry, machine = Registry(place / "registry"), read_machine()
    versions = registry.versions("minilm")
    source = versions[0] if versions else import_and_publish(
        registry, import_bundled, "minilm", machine, effort=BRIEF
    )  # fmt: skip
    corpus = read_text_corpus(_sentences(place))
    workshop = Workshop(corpus, machine.cores, 0, told)
    searched = read_search_set(DATA / "queries_test.jsonl", DATA / "corpus.jsonl")
    options = StudyOptions(allowed_points=2.0, race_rounds=rounds)
    examiner = EncoderExaminer(corpus, Gate(2.0), searched, threads=machine.cores, seed=0)
    study = run_study(
        ENCODER_TIERS, first_stage(registry, source, place / "stages"), place, workshop, options,
        examiner=examiner, progress=told,
    )  # fmt: skip
    minutes = (time.monotonic() - started) / 60
    entries = as_json(study)["entries"]
    reference = _metrics(entries[0])[NDCG]["value"]
    return Result(
        scenario="Optimising: an encoder for search, SciFact",
        setting=(
            f"{len(corpus.train)} sentences of the abstracts to learn from, no label; "
            f"{len(searched.queries)} claims, {len(searched.passages)} abstracts; raced on sentences, one thread, "
            f"{rounds} rounds. 'At most' is the one-sided 95 % bound of the loss of nDCG@10 in points."
        ),
        figures=[
            figure("the whole command", [minutes], "min"),
            *(row for entry in entries for row in _figures(entry, reference)),
        ],
    )


def _figures(entry: dict[str, Any], reference: float) -> list[Figure]:
    name, metrics = entry["name"], _metrics(entry)
    least = 0.99 if name == "lossless" else None
    found = [
        figure(f"{name}: nDCG@10", [metrics[NDCG]["value"]], ""),
        figure(f"{name}: nDCG@10 / reference", [metrics[NDCG]["value"] / reference], "", at_least=least),
        figure(f"{name}: size with tokenizer", [entry["size_bytes"] / 1e6], "MB"),
        figure(f"{name}: faster alone", entry["faster_alone"], "x"),
        figure(f"{name}: faster in 32", entry["faster_batched"], "x"),
    ]
    if entry["loss"] is not None:
        found.append(figure(f"{name}: loss, at most", [entry["loss"]["upper"]], "points"))
        found.append(figure(f"{name}: mean cosine", [metrics["cosine_mean"]["value"]], ""))
    return found


def _metrics(entry: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {metric["name"]: metric for metric in entry["metrics"]}


def _sentences(place: Path) -> Path:
    """Write sentences of the abstracts, one a line."""
    file = place / "sentences.txt"
    found: list[str] = []
    with (DATA / "corpus.jsonl").open(encoding="utf-8") as stream:
        for line in stream:
            found += SENTENCE_END.split(" ".join(json.loads(line)["text"].split()))
    chosen = [text for text in dict.fromkeys(found) if 20 < len(text) < 400]
    step = max(1, len(chosen) // SENTENCES)
    place.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(chosen[::step][:SENTENCES]), "utf-8")
    return file
