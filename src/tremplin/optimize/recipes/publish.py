"""A version of a study becomes a version of the registry, with its evidence.

When a study ends, a draft of each version's manifest is written beside it. Publishing reads the draft, so it can
be done by the command that ran the study, by a later one or by the console, with the same result.

    <run>/versions/<name>.json   the draft, and where graph and tokenizer lie
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version as installed
from pathlib import Path

from tremplin.errors import BadInput, NotServable
from tremplin.machine import Machine, read_machine
from tremplin.optimize.measure import QUICK, Effort
from tremplin.optimize.publish import check_model_name, measure_and_record
from tremplin.optimize.recipes.corpus import Corpus
from tremplin.optimize.recipes.study import REFERENCE, Entry, Study
from tremplin.registry.files import write_atomically
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE, Manifest, dump_manifest, load_manifest
from tremplin.registry.passport import Bound, Quality, extreme_metric
from tremplin.registry.store import Registry

MAX_DEPENDENCE = 0.02
"""What a probability may change with the batch it is in."""
SOFTWARE = ("onnxruntime", "onnx", "numpy", "tokenizers")


def write_drafts(
    study: Study, run: Path, source: Manifest, corpus: Corpus, model: str, *, allowed_points: float, seed: int
) -> None:
    """Write the draft of every version of a study."""
    check_model_name(model)
    for entry in study.entries:
        manifest = _draft(entry, study, source, corpus, model, allowed_points, seed)
        content = {
            "manifest": json.loads(dump_manifest(manifest)),
            "graph": str(entry.graph.relative_to(run)),
            "tokenizer": str(entry.stage.tokenizer.relative_to(run)),
        }
        write_atomically(_draft_file(run, entry.name), json.dumps(content, ensure_ascii=False).encode())


def drafts(run: Path) -> tuple[str, ...]:
    """Return the names of the versions that can be published from a run."""
    return tuple(sorted(path.stem for path in (run / "versions").glob("*.json")))


def publish_from_run(
    registry: Registry,
    run: Path,
    name: str,
    *,
    machine: Machine | None = None,
    threads: int = 1,
    effort: Effort = QUICK,
    forced: bool = False,
) -> Manifest:
    """Publish one version of a run and measure it on this machine.

    Raises BadInput when the run has no such version, NotServable when its evidence does not hold its bounds and it
    was not forced; then nothing is published.
    """
    file = _draft_file(run, name)
    if name not in drafts(run):
        raise BadInput(
            f"The run {run.name!r} has no version {name!r}; it has {', '.join(drafts(run)) or 'none yet'}."
        )
    content = json.loads(file.read_bytes())
    draft = load_manifest(json.dumps(content["manifest"]).encode())
    if (broken := draft.quality.broken_bounds()) and not forced:
        raise NotServable(
            f"{name} did not pass the gate: {'; '.join(broken)}. Publish another version, or allow a larger loss "
            "and run the command again."
        )
    manifest = registry.publish(
        replace(draft, version=registry.next_version(draft.model, draft.version)),
        {MODEL_FILE: run / content["graph"], TOKENIZER_FILE: run / content["tokenizer"]},
    )
    measure_and_record(registry, manifest, machine or read_machine(), threads=threads, effort=effort)
    return manifest


def _draft_file(run: Path, name: str) -> Path:
    return run / "versions" / f"{name}.json"


def _draft(
    entry: Entry, study: Study, source: Manifest, corpus: Corpus, model: str, allowed_points: float, seed: int
) -> Manifest:
    """Return a manifest whose version is only the ending that ``Registry.next_version`` numbers."""
    precision = "int8" if entry.stage.record.is_quantized else "fp32"
    is_reference = entry.name == REFERENCE
    metrics, bounds = entry.evidence.metrics, [Bound("batch_dependence", at_most=MAX_DEPENDENCE)]
    if (verdict := entry.evidence.verdict) is not None:
        broken = len(verdict.broken_classes) + len(verdict.broken_slices)
        metrics = (*metrics, extreme_metric("broken_classes_and_slices", float(broken), verdict.loss.n))
        bounds += [
            Bound(_loss_name(entry), at_most=allowed_points),
            Bound("broken_classes_and_slices", at_most=0.0),
        ]
    return Manifest(
        model=model,
        version=precision if is_reference else f"{entry.name}-{precision}",
        precision=precision,
        interface=entry.finished.interface,
        origin=replace(
            source.origin,
            source=source.ref,
            recipe=(*source.origin.recipe, *entry.steps),
            notes=tuple(dict.fromkeys((*corpus.notes, *_notes(entry)))),
        ),
        artefacts=(),
        quality=Quality(
            reference="held-out labels" if is_reference else f"{model}, fp32, of the same study",
            data=corpus.test.source,
            data_sha256=corpus.sha256,
            seed=seed,
            metrics=metrics,
            bounds=tuple(bounds),
            software={name: installed(name) for name in SOFTWARE},
        ),
        narrow_weights=entry.stage.record.narrow_weights,
        report=entry.evidence.report | {"study": _others(study, entry)},
    )


def _loss_name(entry: Entry) -> str:
    """Return the metric of what was lost: of accuracy for a classifier, of search for an encoder."""
    return next(metric.name for metric in entry.evidence.metrics if metric.name.endswith("_loss_points"))


def _notes(entry: Entry) -> Iterable[str]:
    return (note for record in entry.stage.lineage for note in record.notes)


def _others(study: Study, chosen: Entry) -> list[dict[str, object]]:
    """Return the study in a few figures a version, so that the passport shows what it was chosen from."""
    rows: list[dict[str, object]] = []
    for entry in study.entries:
        verdict = entry.evidence.verdict
        rows.append(
            {
                "name": entry.name,
                "chosen": entry is chosen,
                **entry.figures(),
                "loss_points": None if verdict is None else verdict.loss.points,
                "loss_bound_points": None if verdict is None else verdict.loss.upper,
                "on_front": entry.on_front,
            }
        )
    return rows
