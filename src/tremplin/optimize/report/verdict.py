"""Bounds in words: what the evidence says of each promise."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tremplin.optimize.report.wording import read_as, shown_limit, shown_value
from tremplin.registry.passport import Bound, Metric, Quality


class Outcome(StrEnum):
    """What the evidence says of a bound."""

    HOLDS = "holds"
    NOT_PROVEN = "not proven"
    """The bound lies inside the interval: more texts could decide."""
    MISSED = "missed"
    """Even the optimistic end of the interval is outside."""
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Verdict:
    """One bound and what the evidence says of it."""

    bound: Bound
    metric: Metric | None
    outcome: Outcome

    @property
    def limit(self) -> str:
        """The bound in words: ``at least 99 %``."""
        return limit_in_words(self.bound)

    @property
    def sentence(self) -> str:
        """The verdict as a sentence that carries its numbers."""
        label = read_as(self.bound.metric).label
        if self.metric is None:
            return f"{label} should be {self.limit}, but was not measured."
        if self.outcome is Outcome.HOLDS:
            return f"{label} holds: {self._pessimistic_end()} is {self.limit}."
        if self.outcome is Outcome.MISSED:
            return f"{label} misses its bound: {shown_value(self.metric)} is not {self.limit}."
        return f"{label} is not proven: {self._pessimistic_end()} is not {self.limit}; more texts may decide."

    def _pessimistic_end(self) -> str:
        metric = self.metric
        assert metric is not None
        if metric.low == metric.high:
            return shown_value(metric)
        end = metric.high if self.bound.at_least is None else metric.low
        words = read_as(metric.name)
        place = "high" if self.bound.at_least is None else "low"
        return f"the {place} end of the interval, {shown_limit(words.name, float(f'{end:.4g}'))},"


def verdicts(quality: Quality) -> list[Verdict]:
    """Return what the evidence says of each declared bound, in their order."""
    return [_verdict(bound, quality.metric(bound.metric)) for bound in quality.bounds]


def verdict_of(quality: Quality, name: str) -> Verdict | None:
    """Return the verdict on the first bound of a metric, or None when nothing was promised of it."""
    return next((verdict for verdict in verdicts(quality) if verdict.bound.metric == name), None)


def limit_in_words(bound: Bound) -> str:
    """Return a bound without its metric's name.

    >>> limit_in_words(Bound("cosine_mean", at_least=0.995))
    'at least 0.995'
    """
    parts = []
    if bound.at_least is not None:
        parts.append(f"at least {shown_limit(bound.metric, bound.at_least)}")
    if bound.at_most is not None:
        parts.append(f"at most {shown_limit(bound.metric, bound.at_most)}")
    return " and ".join(parts) or "anything"


def summary(quality: Quality) -> str:
    """Return the verdict on a whole version in a few words."""
    found = verdicts(quality)
    if not found:
        return "no bound declared"
    broken = [verdict for verdict in found if verdict.outcome is not Outcome.HOLDS]
    if not broken:
        return {1: "its bound holds", 2: "both bounds hold"}.get(len(found), f"all {len(found)} bounds hold")
    return f"{len(broken)} of {len(found)} bounds not met"


def _verdict(bound: Bound, metric: Metric | None) -> Verdict:
    if metric is None:
        return Verdict(bound, None, Outcome.NOT_MEASURED)
    if bound.is_met_by(metric):
        return Verdict(bound, metric, Outcome.HOLDS)
    too_low = bound.at_least is not None and metric.high < bound.at_least
    too_high = bound.at_most is not None and metric.low > bound.at_most
    return Verdict(bound, metric, Outcome.MISSED if too_low or too_high else Outcome.NOT_PROVEN)
