"""A version's model card in Markdown, and everything known of versions as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from pydantic import TypeAdapter

from tremplin.optimize.report.cells import Cell, Row, Table, code, words
from tremplin.optimize.report.compare import (
    Speeds,
    baseline_of,
    benches,
    chosen_of,
    differences,
    main_bench,
    speeds_of,
)
from tremplin.optimize.report.evidence import read_evidence
from tremplin.optimize.report.evidence_tables import candidates_table, classes_table, confusions_table
from tremplin.optimize.report.findings import bounds_in_words, headline, remarks
from tremplin.optimize.report.numbers import number, size
from tremplin.optimize.report.provenance import (
    artefacts_table,
    benches_table,
    lineage_table,
    quality_sources_table,
)
from tremplin.optimize.report.tables import bounds_table, metric_order, versions_table
from tremplin.optimize.report.verdict import verdicts
from tremplin.registry.manifest import Manifest
from tremplin.registry.passport import Speed

_MANIFEST = TypeAdapter(Manifest)
_SPEED = TypeAdapter(Speed)
# What Markdown or the HTML in it would read as markup.
_MARKUP = re.compile(r"([\\`*_\[\]<>|#~&])")


def model_card(manifest: Manifest, speeds: Sequence[Speed]) -> str:
    """Return the card of one version in Markdown: what it is, what was measured, how to trust it."""
    by_ref = {manifest.ref: speeds}
    bench, places = main_bench([manifest], by_ref), benches([manifest], by_ref)
    evidence = read_evidence(manifest.report)
    tables = [_facts_table(manifest)]
    if metric_order([manifest]):
        tables.append(bounds_table(manifest))
    tables.append(versions_table([manifest], bench))
    tables += [candidates_table(evidence.candidates)] if evidence.candidates else []
    tables += [classes_table(evidence.classes)] if evidence.classes else []
    tables += [confusions_table(evidence.confusion)] if evidence.confusion is not None else []
    tables += [quality_sources_table([manifest])]
    tables += [benches_table(places, [manifest])] if places else []
    tables += [lineage_table([manifest]), artefacts_table([manifest])]
    parts = [f"# {plain(manifest.ref)}", plain(headline([manifest], by_ref))]
    parts += [plain(remark) for remark in remarks([manifest], by_ref)]
    parts += [markdown_table(table) for table in tables if table.rows]
    return "\n\n".join(parts) + "\n"


def as_json(manifests: Sequence[Manifest], speeds: Speeds, *, command: str = "") -> str:
    """Return everything known of the versions as JSON: manifests, speeds, findings, verdicts, differences.

    Keys are sorted and nothing depends on the time, so the same input gives the same bytes.
    """
    bench = main_bench(manifests, speeds)
    chosen = chosen_of(manifests, bench).ref if manifests else None
    baseline = baseline_of(manifests).ref if manifests else None
    document = {
        "headline": headline(manifests, speeds),
        "remarks": remarks(manifests, speeds),
        "baseline": baseline,
        "chosen": chosen,
        "bench": {"machine": bench.machine_id, "threads": bench.threads, "label": bench.label},
        "versions": [_version_json(manifest, manifests, speeds) for manifest in manifests],
        "command": command,
    }
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def markdown_table(table: Table) -> str:
    """Return a table in Markdown under its caption, numbers to the right."""
    rule = ["---:" if is_number else "---" for is_number in table.aligned]
    lines = [f"## {plain(table.caption)}", "", _line(map(plain, table.head)), _line(rule)]
    for row in table.rows:
        cells = [f"**{plain(row.cells[0].text)}**"] if row.is_group else [*map(_cell, row.cells)]
        lines.append(_line([*cells, *([""] * (len(table.head) - len(cells)))]))
    return "\n".join(lines)


def _version_json(manifest: Manifest, manifests: Sequence[Manifest], speeds: Speeds) -> dict[str, object]:
    bench, baseline = main_bench(manifests, speeds), baseline_of(manifests)
    compared = differences(baseline, manifest, bench) if manifest is not baseline else []
    return {
        "ref": manifest.ref,
        "size_bytes": manifest.size_bytes,
        "manifest": _MANIFEST.dump_python(manifest, mode="json"),
        "speeds": [_SPEED.dump_python(speed, mode="json") for speed in speeds_of(manifest, speeds)],
        "summary": bounds_in_words(manifest.quality),
        "verdicts": [
            {
                "metric": item.bound.metric,
                "bound": item.limit,
                "outcome": str(item.outcome),
                "sentence": item.sentence,
            }
            for item in verdicts(manifest.quality)
        ],
        "differences": [
            {
                "measure": item.measure,
                "before": item.before,
                "after": item.after,
                "words": item.words,
                "noise": item.noise,
                "is_better": item.is_better,
            }
            for item in compared
        ],
    }


def _facts_table(manifest: Manifest) -> Table:
    interface = manifest.interface
    facts = [
        ("Task", words(interface.task.value)),
        ("Precision", words(manifest.precision)),
        ("Size", words(size(manifest.size_bytes))),
        ("Longest text", words(f"{number(interface.max_tokens)} tokens")),
        ("Vocabulary", words(f"{number(interface.vocab_size)} tokens")),
    ]
    if interface.embedding_dim is not None:
        facts.append(("Embedding", words(f"{interface.embedding_dim} dimensions")))
    if interface.labels:
        facts.append(("Labels", words(", ".join(interface.labels))))
    if interface.abstain_below is not None:
        facts.append(("Abstains below", words(f"{interface.abstain_below:g}")))
    facts.append(("Version", code(manifest.ref)))
    return Table("What it is", ("Fact", "Value"), tuple(Row((words(name), cell)) for name, cell in facts))


def _cell(cell: Cell) -> str:
    text = f"`{cell.text}`" if cell.is_code and "`" not in cell.text else plain(cell.text)
    if not cell.note:
        return text
    note = cell.note if cell.is_number else f"({cell.note})"
    return f"{text} {plain(note)}"


def _line(cells: Sequence[str] | map[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plain(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split(" ")).replace("\n", " ").replace("\r", " "))
