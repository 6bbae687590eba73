"""The evidence kept in ``manifest.report``: what its keys hold, and reading them without trust.

Whoever makes a version writes, all optional and as plain JSON values:

    report["classes"]      list of {"label", "precision", "recall", "f1", "support"}
    report["confusion"]    {"labels": [...], "matrix": [[...]]}, a row per true label, counts
    report["calibration"]  {"ece": float, "bins": [{"confidence", "accuracy", "count"}]}
    report["candidates"]   list of {"scheme", "chosen", "reason", "size_bytes", "texts_per_s",
                           "metrics": [{"name", "value", "low", "high", "n"}]}

A key that holds something else is named in ``unread`` and left out: a report must not fail for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from tremplin.optimize.report.plots import ReliabilityBin
from tremplin.registry.passport import Metric

T = TypeVar("T")


@dataclass(frozen=True)
class ClassQuality:
    """How well one label is found."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    """Texts of this label in the evaluation data."""


@dataclass(frozen=True)
class Confusion:
    """Counts by true label (rows) and predicted label (columns)."""

    labels: tuple[str, ...]
    matrix: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Calibration:
    """How far confidence is from the share that was right."""

    ece: float
    """Expected calibration error, 0 to 1."""
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class TriedScheme:
    """A scheme the optimiser tried, and why it won or lost."""

    scheme: str
    chosen: bool
    reason: str
    size_bytes: int
    texts_per_s: float
    metrics: tuple[Metric, ...] = ()


@dataclass(frozen=True)
class HeadReport:
    """Evidence particular to the way a version was made."""

    classes: tuple[ClassQuality, ...] = ()
    confusion: Confusion | None = None
    calibration: Calibration | None = None
    candidates: tuple[TriedScheme, ...] = ()
    unread: tuple[str, ...] = ()
    """Keys that hold something other than documented."""


_CLASSES = TypeAdapter(tuple[ClassQuality, ...])
_CONFUSION = TypeAdapter(Confusion)
_CALIBRATION = TypeAdapter(Calibration)
_CANDIDATES = TypeAdapter(tuple[TriedScheme, ...])


def read_evidence(report: Mapping[str, object]) -> HeadReport:
    """Return what a manifest's report holds; keys that cannot be read are named in ``unread``."""
    unread: list[str] = []

    def read(key: str, adapter: TypeAdapter[T]) -> T | None:
        if report.get(key) is None:
            return None
        try:
            return adapter.validate_python(report[key])
        except ValidationError:
            unread.append(key)
            return None

    return HeadReport(
        classes=read("classes", _CLASSES) or (),
        confusion=read("confusion", _CONFUSION),
        calibration=read("calibration", _CALIBRATION),
        candidates=read("candidates", _CANDIDATES) or (),
        unread=tuple(unread),
    )
