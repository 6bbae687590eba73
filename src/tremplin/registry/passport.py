"""The passport: what was measured of a version, on which data, on which machine.

Quality travels with the version (it sits in the signed manifest). Speed belongs to a machine and is kept
beside the manifest, one file per machine and thread budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt

from tremplin.machine import Machine


@dataclass(frozen=True)
class Metric:
    """One measured quantity with its two-sided 95 % interval.

    For an extreme such as a minimum, which has no interval, ``low`` and ``high`` equal ``value``.
    """

    name: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Bound:
    """What a version promises of a metric. The pessimistic end of the interval must satisfy it."""

    metric: str
    at_least: float | None = None
    at_most: float | None = None

    def is_met_by(self, metric: Metric) -> bool:
        """Return whether the pessimistic end of the interval is inside the bound."""
        # A comparison with NaN is false, so both ask what must hold: what was not measured proves nothing.
        is_enough = self.at_least is None or metric.low >= self.at_least
        return is_enough and (self.at_most is None or metric.high <= self.at_most)

    def __str__(self) -> str:
        parts = []
        if self.at_least is not None:
            parts.append(f"{self.metric} >= {self.at_least:g}")
        if self.at_most is not None:
            parts.append(f"{self.metric} <= {self.at_most:g}")
        return " and ".join(parts)


@dataclass(frozen=True)
class Quality:
    """Quality of a version against its reference, and the bounds it declared."""

    reference: str
    """What it was compared with: the source of an import, or another version."""
    data: str
    """Name of the evaluation texts."""
    data_sha256: str
    seed: int
    metrics: tuple[Metric, ...]
    bounds: tuple[Bound, ...]
    software: dict[str, str] = field(default_factory=dict)
    """Versions of the libraries that took part."""

    def metric(self, name: str) -> Metric | None:
        """Return the metric of this name, or None when it was not measured."""
        return next((metric for metric in self.metrics if metric.name == name), None)

    def broken_bounds(self) -> tuple[str, ...]:
        """Return a sentence for each bound that the evidence does not support; empty when all hold."""
        broken = []
        for bound in self.bounds:
            metric = self.metric(bound.metric)
            if metric is None:
                broken.append(f"{bound} was declared but {bound.metric} was not measured")
            elif not bound.is_met_by(metric):
                interval = f"[{metric.low:.4f}, {metric.high:.4f}]"
                broken.append(f"{bound} is not proven: measured {metric.value:.4f} {interval}, n={metric.n}")
        return tuple(broken)


@dataclass(frozen=True)
class Throughput:
    """Texts per second for one batch shape; the spread is over repeated rounds."""

    rows: int
    tokens: int
    """Tokens in each row; there is no padding in this measurement."""
    texts_per_s: float
    low: float
    high: float


@dataclass(frozen=True)
class CostError:
    """How far the learned costs are off, on shapes they were not learned from: |predicted / measured - 1|."""

    median: float
    p90: float
    n: int


@dataclass(frozen=True)
class BatchCosts:
    """What a batch costs on one machine, in seconds: a sum of non-negative terms (``serve/costs.py``)."""

    batch_s: float
    """Starting a batch."""
    row_s: float
    """Each row."""
    token_s: float
    """Each padded token."""
    pair_s: float
    """Each pair of tokens of a row, which attend to each other."""
    knees: tuple[tuple[int, float], ...] = ()
    """(tokens, seconds): what each padded token beyond that many costs more; a batch outgrows the caches."""
    error: CostError | None = None


@dataclass(frozen=True)
class Speed:
    """What running one version costs on one machine with one thread budget."""

    machine: Machine
    engine: str
    threads: int
    measured_at: str
    rounds: int
    load_ms: float
    peak_memory_bytes: int
    """Peak resident memory of a process of its own that loads the version and runs it."""
    p50_ms: float
    """Median latency of one text of ``latency_tokens`` tokens, alone."""
    p99_ms: float
    latency_tokens: int
    latency_n: int
    throughput: tuple[Throughput, ...]
    costs: BatchCosts
    """Learned from ``throughput``."""
    agreement: tuple[Metric, ...] = ()
    """For an engine that the version's quality was not proven with: its answers on this machine, judged alike."""
    software: dict[str, str] = field(default_factory=dict)


def mean_metric(name: str, values: Sequence[float]) -> Metric:
    """Return the mean of ``values`` with a normal 95 % interval.

    Raises ValueError when there is no value. Source: any statistics text; the tests compare its coverage
    with the nominal 95 %.
    """
    n = len(values)
    if n == 0:
        raise ValueError(f"{name}: a mean of no values has no meaning")
    mean = sum(values) / n
    if n == 1:
        return Metric(name, mean, mean, mean, 1)
    variance = sum((value - mean) ** 2 for value in values) / (n - 1)
    half = 1.959964 * sqrt(variance / n)
    return Metric(name, mean, mean - half, mean + half, n)


def share_metric(name: str, successes: int, n: int) -> Metric:
    """Return a share with its Wilson 95 % interval, which stays inside [0, 1] at the ends.

    Raises ValueError when n is 0. Source: Wilson, JASA 22 (1927).
    """
    if n <= 0:
        raise ValueError(f"{name}: a share of no trials has no meaning")
    z = 1.959964
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Metric(name, share, max(0.0, centre - half), min(1.0, centre + half), n)


def extreme_metric(name: str, value: float, n: int) -> Metric:
    """Return a minimum or maximum over n observations; it has no interval."""
    return Metric(name, value, value, value, n)
