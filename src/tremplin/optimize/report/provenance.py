"""Where numbers and versions come from: machines, data, software, lineage, files."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tremplin.optimize.report.cells import Cell, Row, Table, code, figure, words
from tremplin.optimize.report.compare import Bench, short_names
from tremplin.optimize.report.numbers import size
from tremplin.registry.manifest import Manifest
from tremplin.registry.passport import Speed


def benches_table(benches: Sequence[Bench], manifests: Sequence[Manifest]) -> Table:
    """Return the machines speed was measured on."""
    names = short_names(manifests)
    first = [next(iter(bench.speeds.values())) for bench in benches]

    def row(label: str, shown: Callable[[Speed], str]) -> Row:
        return Row((words(label), *(words(shown(speed)) for speed in first)))

    rows = [
        row("Processor", lambda s: f"{s.machine.cpu.strip()} ({s.machine.architecture})"),
        row("Cores usable", lambda s: f"{s.machine.cores}, from the {s.machine.cores_from}"),
        row("CPU flags", lambda s: ", ".join(s.machine.flags) or "none that matter"),
        row("Memory", lambda s: size(s.machine.memory_bytes)),
        row("System", lambda s: s.machine.system),
        row("Engine", lambda s: s.engine),
        row("Threads", lambda s: str(s.threads)),
        row("Rounds", lambda s: f"{s.rounds} per shape, {s.latency_n} single texts for latency"),
        row("Software", lambda s: software_in_words(s.software)),
        Row((words("Measured"), *(words(_measured_in_words(bench, names)) for bench in benches))),
    ]
    return Table("Machines", ("", *(_bench_name(bench) for bench in benches)), tuple(rows))


def quality_sources_table(manifests: Sequence[Manifest]) -> Table:
    """Return on which texts and against what quality was measured."""
    names = short_names(manifests)

    def row(label: str, cell: Callable[[Manifest], Cell]) -> Row:
        return Row((words(label), *(cell(manifest) for manifest in manifests)))

    rows = [
        row("Compared with", lambda m: words(m.quality.reference)),
        row("Data", lambda m: words(m.quality.data)),
        row("SHA-256 of the data", lambda m: code(m.quality.data_sha256)),
        row("Seed", lambda m: words(str(m.quality.seed))),
        row("Software", lambda m: words(software_in_words(m.quality.software))),
    ]
    return Table("How quality was measured", ("", *(names[m.ref] for m in manifests)), tuple(rows))


def lineage_table(manifests: Sequence[Manifest]) -> Table:
    """Return where each version comes from."""
    names = short_names(manifests)

    def row(label: str, cell: Callable[[Manifest], Cell]) -> Row:
        return Row((words(label), *(cell(manifest) for manifest in manifests)))

    rows = [
        row("Made from", lambda m: words(m.origin.source)),
        row("Revision", lambda m: code(m.origin.revision)),
        row("Architecture", lambda m: words(m.origin.architecture)),
        row("Recipe", lambda m: words(" → ".join(m.origin.recipe) or "imported as it is")),
        row("Precision", lambda m: words(m.precision)),
        row("Notes", lambda m: words("; ".join(m.origin.notes) or "—")),
        row("SHA-256 of the weights", lambda m: code(m.origin.weights_sha256)),
        row("Created", lambda m: words(m.created_at)),
    ]
    return Table("Lineage", ("", *(names[m.ref] for m in manifests)), tuple(rows))


def artefacts_table(manifests: Sequence[Manifest]) -> Table:
    """Return the files of each version."""
    names = short_names(manifests)
    rows = [
        Row((words(names[m.ref]), words(item.name), figure(size(item.size_bytes)), code(item.sha256)))
        for m in manifests
        for item in m.artefacts
    ]
    return Table("Artefacts", ("Version", "File", "Size", "SHA-256"), tuple(rows))


def software_in_words(software: dict[str, str]) -> str:
    """Return library versions on one line, sorted."""
    return ", ".join(f"{name} {version}" for name, version in sorted(software.items())) or "not recorded"


def _bench_name(bench: Bench) -> str:
    return f"{bench.machine_id}, {bench.threads} {'thread' if bench.threads == 1 else 'threads'}"


def _measured_in_words(bench: Bench, names: dict[str, str]) -> str:
    return ", ".join(f"{names.get(ref, ref)} at {speed.measured_at}" for ref, speed in bench.speeds.items())
