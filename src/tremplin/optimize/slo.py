"""What a service must hold (its service level objective), and the cheapest option that holds it.

An objective is written as ``p95<=20ms,rate>=200/s,loss<=0.5pt,memory<=200MB,size<=10MB``. An option is a version
with the engine and the threads it runs on, and what was measured of it there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf, isfinite, isnan

from tremplin.errors import BadInput
from tremplin.optimize.report.numbers import significant

EXAMPLE = "p95<=20ms,rate>=200/s,loss<=0.5pt,memory<=200MB,size<=10MB"


@dataclass(frozen=True)
class _Measure:
    """A kind of figure: the units it is written in, each as a multiple of the one it is kept in."""

    units: Mapping[str, float]
    example: str
    is_floor: bool = False
    """Whether the figure must be at least the limit."""
    may_be_zero: bool = False


_LATENCY = {"ms": 1.0, "s": 1e3, "us": 1e-3, "µs": 1e-3}
_RATE = {"/s": 1.0, "/min": 1 / 60}
# A bare "%" is refused: it could mean a share of the reference's accuracy.
_POINTS = {"pt": 1.0, "pts": 1.0, "points": 1.0, "% points": 1.0}
_BYTES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}

_MEASURES = {
    "p50": _Measure(_LATENCY, "p50<=10ms"),
    "p95": _Measure(_LATENCY, "p95<=20ms"),
    "p99": _Measure(_LATENCY, "p99<=50ms"),
    "rate": _Measure(_RATE, "rate>=200/s", is_floor=True),
    "loss": _Measure(_POINTS, "loss<=0.5pt", may_be_zero=True),
    "memory": _Measure(_BYTES, "memory<=200MB"),
    "size": _Measure(_BYTES, "size<=10MB"),
}
_PERCENTILES = ("p50", "p95", "p99")
_DECIMAL = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_CONSTRAINT = re.compile(r"([a-z0-9_]+)\s*(<=|>=)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*)")


@dataclass(frozen=True)
class Constraint:
    """One figure and its limit: milliseconds, texts per second, percentage points or bytes."""

    name: str
    limit: float

    @property
    def is_floor(self) -> bool:
        """Whether the figure must be at least the limit, not at most."""
        return _MEASURES[self.name].is_floor

    def is_met_by(self, figure: float) -> bool:
        """Return whether a figure is within the limit; one that is not a number never is."""
        return figure >= self.limit if self.is_floor else figure <= self.limit

    def violation(self, figure: float) -> float:
        """Return by what share the limit is missed, 0 when it is met: 0.5 for 30 ms against 20 ms.

        A rate misses by the share it would have to grow; a loss limit of 0 is missed by points.
        """
        if self.is_met_by(figure):
            return 0.0
        if self.is_floor:
            return self.limit / figure - 1 if figure > 0 else inf
        return (figure - self.limit) / (self.limit or 1.0)

    def __str__(self) -> str:
        return f"{self.name} {'>=' if self.is_floor else '<='} {_shown(self.name, self.limit, self.limit)}"


@dataclass(frozen=True)
class Slo:
    """A service level objective: constraints that must all hold, at most one for each figure."""

    constraints: tuple[Constraint, ...]

    def __str__(self) -> str:
        return ", ".join(str(constraint) for constraint in self.constraints)


@dataclass(frozen=True)
class Option:
    """A version on an engine with a number of threads, and its figures there; None is not measured."""

    ref: str
    """``model@version``."""
    engine: str
    threads: int
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    rate_per_s: float | None = None
    loss_bound_points: float | None = None
    """The one-sided 95 % upper bound of the loss (``gate.Loss.upper``), not its estimate."""
    memory_bytes: float | None = None
    size_bytes: float | None = None

    def figure(self, name: str) -> float | None:
        """Return the figure a constraint of this name is about; None when it was not measured."""
        value = {
            "p50": self.p50_ms,
            "p95": self.p95_ms,
            "p99": self.p99_ms,
            "rate": self.rate_per_s,
            "loss": self.loss_bound_points,
            "memory": self.memory_bytes,
            "size": self.size_bytes,
        }[name]
        return None if value is None or isnan(value) else value

    def __str__(self) -> str:
        return f"{self.ref} on {self.engine}, {_threads(self.threads)}"


@dataclass(frozen=True)
class Miss:
    """A constraint that an option does not meet."""

    constraint: Constraint
    figure: float

    @property
    def violation(self) -> float:
        """By what share the limit is missed."""
        return self.constraint.violation(self.figure)

    def __str__(self) -> str:
        name = self.constraint.name
        figure, limit = _shown_apart(name, self.figure, self.constraint.limit)
        return f"misses {name}: {figure} against {limit}"


@dataclass(frozen=True)
class Rejected:
    """An option that was not picked, and why."""

    option: Option
    reason: str


@dataclass(frozen=True)
class Nearest:
    """The option that comes nearest to an objective that none meets."""

    option: Option
    misses: tuple[Miss, ...]
    """The worst first."""


@dataclass(frozen=True)
class Choice:
    """What was picked for an objective, and why nothing else was."""

    slo: Slo
    picked: Option | None
    rejected: tuple[Rejected, ...]
    """Every other option, in the order given."""
    nearest: Nearest | None
    """Only when nothing was picked; None also when no option was measured for all constraints."""

    def __str__(self) -> str:
        if self.picked is not None:
            return f"{self.picked} is the cheapest that holds {self.slo}."
        if self.nearest is None:
            return f"Nothing is known to hold {self.slo}: no option was measured for all of it."
        missed = "; ".join(f"{miss} ({_percent(miss.violation)} off)" for miss in self.nearest.misses)
        return f"Nothing holds {self.slo}. {self.nearest.option} comes nearest: it {missed}."


# -- reading -------------------------------------------------------------------------------------------


def read_slo(text: str) -> Slo:
    """Return the objective written in ``text``, its parts parted by commas; raises BadInput.

    >>> str(read_slo("p95<=20ms,rate>=12e3/min,loss<=0.5pt"))
    'p95 <= 20 ms, rate >= 200/s, loss <= 0.5 points'
    """
    if not text.strip():
        raise BadInput(f"There is no objective; write one such as {EXAMPLE!r}.")
    constraints = tuple(_read_constraint(part.strip()) for part in text.split(","))
    _refuse_contradictions(constraints)
    return Slo(constraints)


def _read_constraint(text: str) -> Constraint:
    match = _CONSTRAINT.fullmatch(text)
    if match is None:
        raise BadInput(
            f"{text!r} is not a constraint: a name, <= or >=, a number and a unit, such as 'p95<=20ms'. "
            f"A whole objective: {EXAMPLE!r}."
        )
    name, sign, number, unit = match.groups()
    measure = _MEASURES.get(name)
    if measure is None:
        raise BadInput(f"{name!r} in {text!r} is not one of {', '.join(_MEASURES)}; write it such as {EXAMPLE!r}.")
    if measure.is_floor != (sign == ">="):
        direction = "at least" if measure.is_floor else "at most"
        raise BadInput(f"{text!r}: {name} is held to {direction} a limit, such as {measure.example!r}.")
    if unit not in measure.units:
        found = f"{unit!r} is not a unit of {name}" if unit else f"{name} has no unit"
        raise BadInput(f"{text!r}: {found}; it is one of {', '.join(measure.units)}, such as {measure.example!r}.")
    limit = float(number) * measure.units[unit]
    if not isfinite(limit) or limit < 0 or (limit == 0 and not measure.may_be_zero):
        least = "0 or more" if measure.may_be_zero else "above 0"
        raise BadInput(f"{text!r}: {number} cannot be held; the limit is {least}, such as {measure.example!r}.")
    return Constraint(name, limit)


def _refuse_contradictions(constraints: Sequence[Constraint]) -> None:
    limits: dict[str, float] = {}
    for constraint in constraints:
        if constraint.name in limits:
            raise BadInput(f"{constraint.name} is given twice; give each figure one limit, such as {EXAMPLE!r}.")
        limits[constraint.name] = constraint.limit
    for lower, higher in combinations([name for name in _PERCENTILES if name in limits], 2):
        if limits[higher] < limits[lower]:
            tight, loose = Constraint(higher, limits[higher]), Constraint(lower, limits[lower])
            raise BadInput(
                f"'{loose}' contradicts '{tight}': {lower} is never above {higher}, so it asks for nothing. "
                f"Swap them or leave {lower} out, such as 'p50<=10ms,p99<=50ms'."
            )


# -- picking -------------------------------------------------------------------------------------------


def pick(options: Sequence[Option], slo: Slo) -> Choice:
    """Return the cheapest option that meets every constraint, and why each other one was not picked.

    Cheapest is fewest threads, then least memory (not measured counts as most), then highest rate; equals are
    taken in the order of version and engine. When none meets all, the nearest is the one whose worst violation
    is smallest among those measured for all constraints.
    """
    meeting = [option for option in options if not _obstacles(option, slo)]
    if meeting:
        picked = min(meeting, key=_cost)
        others = [option for option in options if option is not picked]
        return Choice(slo, picked, tuple(Rejected(other, _why_not(other, picked, slo)) for other in others), None)
    rejected = tuple(Rejected(option, "; ".join(_obstacles(option, slo))) for option in options)
    return Choice(slo, None, rejected, _nearest(options, slo))


def _obstacles(option: Option, slo: Slo) -> list[str]:
    """Return what keeps an option from being picked, in words; empty when it meets everything."""
    unmeasured = [f"{name} was not measured" for name in _unmeasured(option, slo)]
    return unmeasured + [str(miss) for miss in _misses(option, slo)]


def _unmeasured(option: Option, slo: Slo) -> list[str]:
    return [item.name for item in slo.constraints if option.figure(item.name) is None]


def _misses(option: Option, slo: Slo) -> tuple[Miss, ...]:
    """Return the constraints that measured figures miss, the worst first."""
    figures = [(constraint, option.figure(constraint.name)) for constraint in slo.constraints]
    missed = [Miss(item, figure) for item, figure in figures if figure is not None and not item.is_met_by(figure)]
    return tuple(sorted(missed, key=lambda miss: -miss.violation))


def _nearest(options: Sequence[Option], slo: Slo) -> Nearest | None:
    found = [Nearest(option, _misses(option, slo)) for option in options if not _unmeasured(option, slo)]
    return min(found, key=lambda near: (near.misses[0].violation, *_cost(near.option)), default=None)


def _cost(option: Option) -> tuple[int, float, float, str, str]:
    memory, rate = option.figure("memory"), option.figure("rate")
    return (option.threads, inf if memory is None else memory, -(rate or 0.0), option.ref, option.engine)


def _why_not(option: Option, picked: Option, slo: Slo) -> str:
    return "; ".join(_obstacles(option, slo)) or _why_dearer(option, picked)


def _why_dearer(option: Option, picked: Option) -> str:
    """Return why an option that meets everything was not the cheapest; ``_cost`` in words."""
    if option.threads != picked.threads:
        return f"meets all but costs more: {_threads(option.threads)}"
    for name, words in (("memory", "costs more"), ("rate", "answers less")):
        mine, best = option.figure(name), picked.figure(name)
        if mine == best:
            continue
        if mine is None:
            return f"meets all but its {name} was not measured"
        if best is not None:
            figure, limit = _shown_apart(name, mine, best)
            return f"meets all but {words}: {figure} against {limit}"
    return "meets all and costs the same; it comes later in the alphabet"


# -- in words ------------------------------------------------------------------------------------------


def _threads(count: int) -> str:
    return f"{count} {'thread' if count == 1 else 'threads'}"


def _percent(share: float) -> str:
    return f"{significant(100 * share, 2)} %" if isfinite(share) else "without end"


def _shown_apart(name: str, figure: float, limit: float) -> tuple[str, str]:
    """Return two figures in one unit, with the digits it takes to tell them apart."""
    for digits in (3, 5, 8):
        shown = _shown(name, figure, limit, digits), _shown(name, limit, limit, digits)
        if shown[0] != shown[1]:
            break
    return shown


def _shown(name: str, value: float, scale: float, digits: int = 3) -> str:
    """Return a figure with its unit; bytes in the unit that suits ``scale``."""
    units = _MEASURES[name].units
    if units is _BYTES:
        factor, unit = next((step for step in _DECIMAL if scale >= step[0]), _DECIMAL[-1])
        return f"{_number(value / factor, digits)} {unit}"
    if units is _RATE:
        return f"{_number(value, digits)}/s"
    return f"{_number(value, digits)} {'ms' if units is _LATENCY else 'points'}"


def _number(value: float, digits: int) -> str:
    text = significant(value, digits)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text
