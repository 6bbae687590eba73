"""Comparing versions: which with which, on which machine, and whether a difference is more than noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from tremplin.optimize.report.numbers import duration, rate, significant, size, times
from tremplin.optimize.report.wording import read_as, shown_value
from tremplin.registry.manifest import Manifest
from tremplin.registry.passport import Metric, Speed, Throughput

# Closer than this, two latencies or sizes are called the same.
SAME = 0.05

Speeds = Mapping[str, Sequence[Speed]]


@dataclass(frozen=True)
class Bench:
    """A machine with a thread budget, and what was measured on it, by version reference."""

    machine_id: str
    threads: int
    speeds: Mapping[str, Speed]

    @property
    def label(self) -> str:
        """The machine in a few words; empty when nothing was measured."""
        speed = next(iter(self.speeds.values()), None)
        if speed is None:
            return ""
        plural = "thread" if self.threads == 1 else "threads"
        return f"{speed.machine.cpu.strip()}, {self.threads} {plural}, {speed.engine}"


@dataclass(frozen=True)
class Difference:
    """One measure of two versions side by side."""

    measure: str
    before: str
    after: str
    words: str
    noise: str
    """Whether the difference is more than noise, and how that is known."""
    is_better: bool | None = None
    """None when it makes no difference or cannot be told."""
    is_throughput: bool = False
    """Whether this is one of the many batch shapes, which short reports leave out."""


def speeds_of(manifest: Manifest, speeds: Speeds) -> Sequence[Speed]:
    """Return a version's speeds, looked up as ``model@version`` and then as ``version``."""
    return speeds.get(manifest.ref) or speeds.get(manifest.version) or ()


def benches(manifests: Sequence[Manifest], speeds: Speeds) -> list[Bench]:
    """Return the machines and thread budgets; the one to compare on comes first.

    It is the one on which most versions were measured; among equals, the one with most threads.
    """
    found: dict[tuple[str, int], dict[str, Speed]] = {}
    for manifest in manifests:
        for speed in sorted(speeds_of(manifest, speeds), key=lambda item: item.measured_at):
            found.setdefault((speed.machine.id, speed.threads), {})[manifest.ref] = speed
    order = sorted(found, key=lambda key: (-len(found[key]), -key[1], key))
    return [Bench(machine, threads, found[machine, threads]) for machine, threads in order]


def main_bench(manifests: Sequence[Manifest], speeds: Speeds) -> Bench:
    """Return the bench to compare on; one without speeds when nothing was measured."""
    return next(iter(benches(manifests, speeds)), Bench("", 0, {}))


def short_names(manifests: Sequence[Manifest]) -> dict[str, str]:
    """Return what to call each version: its own name, or ``model@version`` when models are mixed."""
    is_one_model = len({manifest.model for manifest in manifests}) == 1
    return {manifest.ref: manifest.version if is_one_model else manifest.ref for manifest in manifests}


def baseline_of(manifests: Sequence[Manifest]) -> Manifest:
    """Return the version others are compared with: the first in full precision, else the first."""
    return next((item for item in manifests if item.precision == "fp32"), manifests[0])


def chosen_of(manifests: Sequence[Manifest], bench: Bench) -> Manifest:
    """Return the version the report speaks of first.

    It is the fastest whose bounds all hold; without speeds the smallest; when none holds, the newest.
    """
    baseline = baseline_of(manifests)
    holding = [item for item in manifests if not item.quality.broken_bounds()]
    derived = [item for item in holding if item is not baseline]
    timed = [item for item in holding if item.ref in bench.speeds]
    if len(manifests) == 1 or not holding:
        return manifests[-1]
    if len(timed) > 1:
        return min(timed, key=lambda item: bench.speeds[item.ref].p50_ms)
    return min(derived or holding, key=lambda item: item.size_bytes)


def comparable_metric(name: str, before: Manifest, after: Manifest) -> Metric | None:
    """Return what the baseline scores on the texts and against the reference ``after`` was measured with.

    None when the two cannot be set side by side.
    """
    beside = after.quality.metric(f"{name}_reference")
    if after.quality.reference == before.ref and beside is not None:
        return beside
    words, own = read_as(name), before.quality.metric(name)
    same_texts = before.quality.data_sha256 == after.quality.data_sha256
    same_reference = before.quality.reference == after.quality.reference
    if own is None or not same_texts or (words.is_against_reference and not same_reference):
        return None
    return own


def is_more_than_noise(before: Metric, after: Metric) -> bool:
    """Return whether two metrics differ by more than their intervals explain, at 95 %.

    The two are treated as independent. They were measured on the same texts, which makes a paired test
    sharper: this one errs towards "noise". Source: Newcombe, Statistics in Medicine 17 (1998), method 10.
    """
    difference = abs(after.value - before.value)
    # The ends that face each other; a Wilson interval is not symmetric.
    if after.value < before.value:
        reach = sqrt((before.value - before.low) ** 2 + (after.high - after.value) ** 2)
    else:
        reach = sqrt((before.high - before.value) ** 2 + (after.value - after.low) ** 2)
    return difference > reach


def faster_in_words(ratio: float) -> str:
    """Return a ratio of speeds in words.

    >>> faster_in_words(2.5), faster_in_words(0.4), faster_in_words(1.02)
    ('2.5 times faster', '2.5 times slower', 'about as fast')
    """
    return _ratio_in_words(ratio, "faster", "slower", "about as fast")


def smaller_in_words(ratio: float) -> str:
    """Return a ratio of sizes in words; above 1 the new one is smaller."""
    return _ratio_in_words(ratio, "smaller", "larger", "about as large")


def latency_ratio(before: Speed, after: Speed) -> float | None:
    """Return how much faster one text is answered; None when it cannot be told."""
    if before.p50_ms <= 0 or after.p50_ms <= 0 or before.latency_tokens != after.latency_tokens:
        return None
    return before.p50_ms / after.p50_ms


def differences(before: Manifest, after: Manifest, bench: Bench) -> list[Difference]:
    """Return every measure the two versions share, with the difference in words."""
    found = [_size_difference(before, after)]
    slow, fast = bench.speeds.get(before.ref), bench.speeds.get(after.ref)
    if slow is not None and fast is not None:
        found += _speed_differences(slow, fast)
    for metric in after.quality.metrics:
        base = comparable_metric(metric.name, before, after)
        if base is not None:
            found.append(_metric_difference(base, metric))
    return found


def _size_difference(before: Manifest, after: Manifest) -> Difference:
    ratio = before.size_bytes / after.size_bytes if after.size_bytes else 1.0
    return Difference(
        measure="Size",
        before=size(before.size_bytes),
        after=size(after.size_bytes),
        words=smaller_in_words(ratio),
        noise="exact count",
        is_better=_is_better(ratio),
    )


def _speed_differences(before: Speed, after: Speed) -> list[Difference]:
    memory = before.peak_memory_bytes / after.peak_memory_bytes if after.peak_memory_bytes else 1.0
    found = [
        Difference(
            measure="Peak memory",
            before=size(before.peak_memory_bytes),
            after=size(after.peak_memory_bytes),
            words=smaller_in_words(memory),
            noise="unknown, measured once",
            is_better=_is_better(memory),
        )
    ]
    ratio = latency_ratio(before, after)
    if ratio is not None:
        found.append(
            Difference(
                measure=f"Latency of one text of {after.latency_tokens} tokens, p50",
                before=duration(before.p50_ms),
                after=duration(after.p50_ms),
                words=faster_in_words(ratio),
                noise=f"unknown, one median of {after.latency_n} runs",
                is_better=_is_better(ratio),
            )
        )
    shapes = {(item.rows, item.tokens): item for item in before.throughput}
    for item in after.throughput:
        base = shapes.get((item.rows, item.tokens))
        if base is not None and base.texts_per_s > 0:
            found.append(_throughput_difference(base, item))
    return found


def _throughput_difference(before: Throughput, after: Throughput) -> Difference:
    ratio = after.texts_per_s / before.texts_per_s
    overlaps = before.low <= after.high and after.low <= before.high
    return Difference(
        measure=f"Throughput, {shape_in_words(after.rows, after.tokens)}",
        before=rate(before.texts_per_s),
        after=rate(after.texts_per_s),
        words=faster_in_words(ratio),
        noise="no, the spreads overlap" if overlaps else "yes, the spreads are apart",
        is_better=None if overlaps else _is_better(ratio),
        is_throughput=True,
    )


def _metric_difference(before: Metric, after: Metric) -> Difference:
    words = read_as(after.name)
    delta = (after.value - before.value) * words.factor
    unit = "points" if words.is_share else ""
    sign = "+" if delta > 0 else "−" if delta < 0 else "±"
    shown = f"{sign}{significant(abs(delta), 2)} {unit}".rstrip()
    is_better: bool | None = None
    noise = "unknown, an extreme has no interval"
    if before.low != before.high and after.low != after.high:
        is_real = is_more_than_noise(before, after)
        noise = "yes" if is_real else "no"
        is_better = (delta < 0) is words.is_less_better if is_real else None
    return Difference(words.label, shown_value(before), shown_value(after), shown, noise, is_better)


def shape_in_words(rows: int, tokens: int) -> str:
    """Return a batch shape in words.

    >>> shape_in_words(1, 16), shape_in_words(32, 128)
    ('1 text of 16 tokens', '32 texts of 128 tokens')
    """
    return f"{rows} {'text' if rows == 1 else 'texts'} of {tokens} tokens"


def _ratio_in_words(ratio: float, better: str, worse: str, same: str) -> str:
    if 1 - SAME < ratio < 1 + SAME or ratio <= 0:
        return same
    return f"{times(ratio)} {better}" if ratio > 1 else f"{times(1 / ratio)} {worse}"


def _is_better(ratio: float) -> bool | None:
    return None if 1 - SAME < ratio < 1 + SAME or ratio <= 0 else ratio > 1
