"""The findings in words: what a reader should remember."""

from __future__ import annotations

from collections.abc import Sequence

from tremplin.optimize.report.compare import (
    Bench,
    Speeds,
    baseline_of,
    chosen_of,
    comparable_metric,
    faster_in_words,
    is_more_than_noise,
    latency_ratio,
    main_bench,
    short_names,
    smaller_in_words,
)
from tremplin.optimize.report.numbers import NO_BREAK_SPACE, duration, rate, significant, size
from tremplin.optimize.report.verdict import Outcome, verdict_of, verdicts
from tremplin.optimize.report.wording import read_as, shown_value, shown_with_interval
from tremplin.registry.manifest import Manifest
from tremplin.registry.passport import Metric, Quality, Speed


def headline(manifests: Sequence[Manifest], speeds: Speeds) -> str:
    """Return the main finding as one sentence: size, speed and quality of the chosen version."""
    if not manifests:
        return "There is no version to report on."
    bench, names = main_bench(manifests, speeds), short_names(manifests)
    baseline, chosen = baseline_of(manifests), chosen_of(manifests, bench)
    if chosen is baseline:
        alone = _alone(chosen, bench, names[chosen.ref])
        if len(manifests) == 1:
            return alone
        return f"{alone} No other version is faster within its bounds."
    parts = [_size_and_speed(baseline, chosen, bench, names), _kept(baseline, chosen, names)]
    return f"{names[chosen.ref]} {' and '.join(part for part in parts if part)}."


def remarks(manifests: Sequence[Manifest], speeds: Speeds) -> list[str]:
    """Return the sentences under the headline: bounds of the chosen version, and where it was measured."""
    if not manifests:
        return ["Import a model first: `tremplin import`."]
    bench = main_bench(manifests, speeds)
    chosen = chosen_of(manifests, bench)
    found = [bounds_in_words(chosen.quality)]
    if bench.label:
        found.append(f"Speed was measured on {bench.label}; it holds for this machine only.")
    else:
        found.append("Speed was not measured on any machine yet: `tremplin bench` measures it.")
    return found


def bounds_in_words(quality: Quality) -> str:
    """Return whether a version keeps its promises, and which it breaks."""
    found = verdicts(quality)
    if not found:
        return "No bound was declared: its quality is measured, but nothing is promised of it."
    broken = [verdict.sentence for verdict in found if verdict.outcome is not Outcome.HOLDS]
    if broken:
        return f"It is not served unless forced by name. {' '.join(broken)}"
    said = {1: "Its bound holds.", 2: "Both of its bounds hold."}
    return said.get(len(found), f"All {len(found)} of its bounds hold.")


def main_metric(manifests: Sequence[Manifest], baseline: Manifest, chosen: Manifest) -> str | None:
    """Return the name of the metric that stands for quality: the first the baseline can be compared on.

    Failing that, the first share (an agreement), then the first of all; None when nothing was measured.
    """
    metrics = [item for item in chosen.quality.metrics if not item.name.endswith("_reference")]
    compared = [
        item.name
        for item in metrics
        if not read_as(item.name).is_less_better
        and not read_as(item.name).is_against_reference
        and (len(manifests) == 1 or comparable_metric(item.name, baseline, chosen) is not None)
    ]
    shares = [item.name for item in metrics if read_as(item.name).is_share]
    return next(iter(compared + shares + [item.name for item in metrics]), None)


def metric_beside(name: str, manifest: Manifest, manifests: Sequence[Manifest]) -> Metric | None:
    """Return a version's metric as it stands beside the others.

    The reference of another version agrees with itself perfectly, and has the score noted beside that
    version's own.
    """
    for other in manifests:
        measured = other.quality.metric(name)
        if other.ref == manifest.ref or other.quality.reference != manifest.ref or measured is None:
            continue
        beside = other.quality.metric(f"{name}_reference")
        if beside is not None:
            return Metric(name, beside.value, beside.low, beside.high, beside.n)
        if read_as(name).is_perfect_for_reference:
            return Metric(name, 1.0, 1.0, 1.0, measured.n)
    return manifest.quality.metric(name)


def is_reference(manifest: Manifest, name: str, manifests: Sequence[Manifest]) -> bool:
    """Return whether another version was compared with this one, so that it agrees with itself."""
    return read_as(name).is_perfect_for_reference and any(
        other.quality.reference == manifest.ref and other.quality.metric(name) is not None
        for other in manifests
        if other.ref != manifest.ref
    )


def metric_finding(name: str, manifests: Sequence[Manifest]) -> str:
    """Return what the intervals of one metric show, as the title of their picture."""
    label, names = read_as(name).label, short_names(manifests)
    by_outcome: dict[Outcome, list[str]] = {}
    for manifest in manifests:
        verdict = verdict_of(manifest.quality, name)
        if verdict is not None:
            by_outcome.setdefault(verdict.outcome, []).append(names[manifest.ref])
    if not by_outcome:
        return f"{label}: {_against_baseline(name, manifests) or 'no bound was declared'}"
    phrases = {
        Outcome.HOLDS: "the bound holds for {}",
        Outcome.NOT_PROVEN: "is not proven for {}",
        Outcome.MISSED: "is missed by {}",
        Outcome.NOT_MEASURED: "was not measured for {}",
    }
    said = [phrase.format(_listed(by_outcome[key])) for key, phrase in phrases.items() if key in by_outcome]
    if not said[0].startswith("the bound"):
        said[0] = f"the bound {said[0]}"
    return f"{label}: {_listed(said)}"


def _against_baseline(name: str, manifests: Sequence[Manifest]) -> str:
    """Return how each version's metric differs from the baseline's; empty when nothing can be compared."""
    names, baseline, said = short_names(manifests), baseline_of(manifests), []
    for manifest in manifests:
        metric = manifest.quality.metric(name)
        base = comparable_metric(name, baseline, manifest) if manifest is not baseline else None
        if metric is None or base is None or metric.low == metric.high:
            continue
        gap = significant(abs(metric.value - base.value) * read_as(name).factor, 2)
        gap += " points" if read_as(name).is_share else ""
        side = "below" if metric.value < base.value else "above"
        where = f"{gap} {side}" if is_more_than_noise(base, metric) else "within noise of"
        said.append(f"{names[manifest.ref]} is {where} {names[baseline.ref]}")
    return _listed(said)


def throughput_finding(tokens: int, manifests: Sequence[Manifest], bench: Bench) -> str:
    """Return what the throughput at one text length shows, as the title of its picture."""
    names, baseline = short_names(manifests), baseline_of(manifests)
    best: dict[str, float] = {}
    for manifest in manifests:
        speed = bench.speeds.get(manifest.ref)
        rates = [item.texts_per_s for item in speed.throughput if item.tokens == tokens] if speed else []
        if rates:
            best[manifest.ref] = max(rates)
    place = f"Texts of {tokens} tokens"
    if not best:
        return f"{place}: not measured"
    fastest = max(best, key=lambda ref: best[ref])
    if fastest == baseline.ref or baseline.ref not in best or best[baseline.ref] <= 0:
        return f"{place}: {names[fastest]} reaches {rate(best[fastest])}"
    ratio = best[fastest] / best[baseline.ref]
    link = "as" if faster_in_words(ratio).startswith("about as") else "than"
    compared = f"{faster_in_words(ratio)} {link} {names[baseline.ref]}"
    return f"{place}: {names[fastest]} reaches {rate(best[fastest])}, {compared}"


def _alone(manifest: Manifest, bench: Bench, name: str) -> str:
    sentence = f"{name} takes {size(manifest.size_bytes)}"
    speed = bench.speeds.get(manifest.ref)
    if speed is not None:
        sentence += f" and answers one text of {speed.latency_tokens} tokens in {duration(speed.p50_ms)} (p50)"
    metric = manifest.quality.metric(main_metric([manifest], manifest, manifest) or "")
    if metric is not None:
        label = read_as(metric.name).label
        sentence += f"; {label[:1].lower()}{label[1:]} {shown_with_interval(metric)}"
    return f"{sentence}."


def _size_and_speed(before: Manifest, after: Manifest, bench: Bench, names: dict[str, str]) -> str:
    said = []
    if after.size_bytes and before.size_bytes:
        said.append(smaller_in_words(before.size_bytes / after.size_bytes))
    slow, fast = bench.speeds.get(before.ref), bench.speeds.get(after.ref)
    if slow is not None and fast is not None:
        ratio = latency_ratio(slow, fast)
        said += [] if ratio is None else [_speed_in_words(slow, fast, ratio)]
    if not said:
        return ""
    link = "as" if said[-1].startswith("about as") else "than"
    return f"is {' and '.join(said)} {link} {names[before.ref]}"


def _speed_in_words(before: Speed, after: Speed, ratio: float) -> str:
    """Return the difference in latency, called "about as fast" when one text's throughput overlaps."""
    shape = (1, after.latency_tokens)
    slow = next((item for item in before.throughput if (item.rows, item.tokens) == shape), None)
    fast = next((item for item in after.throughput if (item.rows, item.tokens) == shape), None)
    if slow is not None and fast is not None and slow.low <= fast.high and fast.low <= slow.high:
        return "about as fast"
    return faster_in_words(ratio)


def _kept(before: Manifest, after: Manifest, names: dict[str, str]) -> str:
    """Return what remains of the quality."""
    name = main_metric([before, after], before, after)
    metric = after.quality.metric(name) if name is not None else None
    if name is None or metric is None:
        return ""
    words = read_as(name)
    label = f"{words.label[:1].lower()}{words.label[1:]}" if not words.label[:2].isupper() else words.label
    base = comparable_metric(name, before, after)
    if base is None:
        reference = names.get(after.quality.reference, after.quality.reference)
        return f"has a {label} of {shown_with_interval(metric)} with {reference}"
    against = f"{shown_with_interval(metric)} against {shown_value(base)}"
    noise = "more than noise" if is_more_than_noise(base, metric) else "a difference within noise"
    if base.value <= 0 or words.is_less_better:
        return f"has a {label} of {against}, {noise}"
    share = 100 * metric.value / base.value
    kept = f"{significant(share, 4 if share >= 100 else 3)}{NO_BREAK_SPACE}%"
    return f"keeps {kept} of its {label} ({against}, {noise})"


def _listed(words: Sequence[str]) -> str:
    """Return words as a list in a sentence."""
    if len(words) <= 1:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
