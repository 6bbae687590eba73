"""The quality gate: how much a version loses against its reference, and whether that is little enough.

Both answer the same rows, so a loss is counted on the rows where they differ. The gate reads the one-sided 95 %
upper bound of the loss, never the loss itself. An average can hide a class that no longer works, so the gate
also fails when a class or a slice (a language, a range of lengths) is proven broken.

A loss is in percentage points and positive when the candidate is worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, erfc, isfinite, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tremplin.errors import BadInput
from tremplin.optimize.head.abstain import share_lower_bound
from tremplin.registry.passport import Metric

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

Z_ONE_SIDED, Z_TWO_SIDED = 1.644854, 1.959964
"""Normal quantiles of 0.95 and 0.975."""
CORRECTION = 0.25
"""Rows added to the difference of Tango's score. Exact coverage of the one-sided bound over 114 cells (20 to 4,500
rows, 0.5 to 30 % of them different, losses from none to all of these) is at least 0.940 without it and 0.951 with
it. Where rows are only lost it is 0.934 and 0.952; the bound is then Clopper and Pearson's, -0.2 to +7 %.
The usual half row gives 0.953 and costs more. A percentile bootstrap gives 0.86 for 1 % lost of 200 rows."""
BISECTIONS = 50
"""Halvings of [-1, 1]: to the last bit that matters."""

LEVEL = 0.05
"""Chance that any class or slice within its tolerance is called broken."""
EXACT_UP_TO = 300
"""Rows that differ; with more, the normal distribution of the score is as good and does not cost a second."""
UNLIKELY = 1e-6
"""Chance given away by trying only shares of gained rows that fit those counted (Berger and Boos 1994)."""
SHARES_TRIED = 48
DRAWS = 4_000
"""Bootstrap samples: the level of a 95 % bound is then right within 0.4 % (one standard error)."""
DRAWS_AT_ONCE = 250


@dataclass(frozen=True)
class Loss:
    """What a candidate loses against its reference on the same rows, in percentage points."""

    points: float
    """100 times (mean of the reference - mean of the candidate); negative when the candidate is better."""
    low: float
    high: float
    """The two-sided 95 % interval."""
    upper: float
    """The one-sided 95 % upper bound: what the gate reads."""
    n: int
    lost: int
    """Rows where the candidate is worse."""
    gained: int
    """Rows where it is better."""


@dataclass(frozen=True)
class PartLoss:
    """The loss of right answers on one class or one slice of the rows."""

    name: str
    loss: Loss


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate may replace its reference, and why not."""

    passes: bool
    loss: Loss
    allowed_points: float
    broken_classes: tuple[PartLoss, ...]
    broken_slices: tuple[PartLoss, ...]
    reasons: tuple[str, ...]
    """A sentence for each condition that does not hold; empty when the candidate passes."""


@dataclass(frozen=True)
class Gate:
    """Lets a candidate pass when it is proven to lose no more than ``allowed_points``.

    A candidate that loses exactly what is allowed passes in at most 5 % of evaluations, a worse one less often.
    Raises BadInput when a number is negative or not finite.
    """

    allowed_points: float
    class_tolerance_points: float = field(default=2.0, kw_only=True)
    """What one class or slice may lose before it can be called broken; at least ``allowed_points`` counts."""

    def __post_init__(self) -> None:
        for name in ("allowed_points", "class_tolerance_points"):
            value = getattr(self, name)
            if not (isfinite(value) and value >= 0):
                raise BadInput(
                    f"{name} is {value}, but a loss that is allowed is 0 percentage points or more; such as 0.5."
                )

    def decide(self, loss: Loss, classes: Sequence[PartLoss] = (), slices: Sequence[PartLoss] = ()) -> Verdict:
        """Return whether the one-sided bound is within what is allowed and no class or slice is broken."""
        tolerance = max(self.class_tolerance_points, self.allowed_points)
        broken = broken_classes([*classes, *slices], tolerance)
        reasons = [_broken_in_words(part, tolerance) for part in broken]
        # Asked as what must hold, so that a bound that is not a number fails.
        if not loss.upper <= self.allowed_points:
            reasons.insert(0, _too_much_in_words(loss, self.allowed_points))
        return Verdict(
            passes=not reasons,
            loss=loss,
            allowed_points=self.allowed_points,
            broken_classes=tuple(part for part in classes if part in broken),
            broken_slices=tuple(part for part in slices if part in broken),
            reasons=tuple(reasons),
        )


def _too_much_in_words(loss: Loss, allowed_points: float) -> str:
    said = (
        f"it may lose {loss.upper:.2f} points (one-sided 95 % bound; measured {loss.points:.2f} on {loss.n} rows) "
        f"and {allowed_points:g} are allowed"
    )
    return f"{said}: more rows may prove it" if loss.points <= allowed_points else said


def _broken_in_words(part: PartLoss, tolerance: float) -> str:
    loss = part.loss
    return (
        f"{part.name!r} is broken: {loss.lost} of {loss.n} rows lost and {loss.gained} gained, "
        f"{loss.points:.1f} points where {tolerance:g} are tolerated"
    )


# -- right and wrong answers ---------------------------------------------------------------------------


def paired_loss(reference_right: ArrayLike, candidate_right: ArrayLike) -> Loss:
    """Return the loss of right answers; both arguments are booleans of shape (n,), row by row.

    Interval and bound invert Tango's score test for paired shares, with ``CORRECTION``. Raises ValueError when
    the shapes differ or there is no row. Source: Tango, Statistics in Medicine 17 (1998), 891-908.
    """
    before, after = np.asarray(reference_right, bool), np.asarray(candidate_right, bool)
    _check_pairs(before, after)
    return loss_from_counts(int((before & ~after).sum()), int((after & ~before).sum()), len(before))


def loss_from_counts(lost: int, gained: int, n: int) -> Loss:
    """Return the loss when only the reference is right on ``lost`` of n rows, only the candidate on ``gained``."""
    # The lower end of a loss is the upper end of a gain.
    worse, better = np.array([gained, lost, lost]), np.array([lost, gained, gained])
    gain, high, upper = 100 * score_upper_bound(
        worse, better, n, z=np.array([Z_TWO_SIDED, Z_TWO_SIDED, Z_ONE_SIDED])
    )
    return Loss(100 * (lost - gained) / n, -float(gain), float(high), float(upper), n, lost, gained)


def score_upper_bound(
    lost: ArrayLike, gained: ArrayLike, n: int, *, z: ArrayLike = Z_ONE_SIDED, correction: float = CORRECTION
) -> Floats:
    """Return the upper bound of the loss as a share, element by element of two arrays of counts.

    It is the loss from which the counts are ``z`` standard errors away. Without ``correction`` (in rows) it is
    Tango's bound as published.
    """
    worse, better = np.asarray(lost, np.float64), np.asarray(gained, np.float64)
    least_score = -np.asarray(z, np.float64)
    low = np.full(np.broadcast_shapes(worse.shape, better.shape, least_score.shape), -1.0)
    high = -low
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        is_plausible = _score(worse, better, n, middle, correction) >= least_score
        low, high = np.where(is_plausible, middle, low), np.where(is_plausible, high, middle)
    return high


def _score(lost: Floats, gained: Floats, n: int, loss: Floats | float, correction: float = 0.0) -> Floats:
    """Return by how many standard errors the counts lie above a true ``loss`` (a share).

    The standard error takes the most likely share of gained rows under that loss. Tango 1998, (24) to (26).
    """
    loss = np.asarray(loss, np.float64)
    linear = (2 * n - lost + gained) * loss - lost - gained
    constant = -gained * loss * (1 - loss)
    share_gained = (np.sqrt(np.maximum(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * share_gained + loss * (1 - loss))
    scores: Floats = (lost - gained + correction - n * loss) / np.sqrt(np.maximum(variance, 1e-18))
    return scores


def rows_to_prove(allowed_points: float) -> int:
    """Return from how many rows on a candidate can pass at all: one that differs from its reference on none.

    Raises ValueError unless ``allowed_points`` is above 0.
    """
    if not allowed_points > 0:
        raise ValueError(f"no number of rows proves a loss of at most {allowed_points} points without a gain")
    share = min(allowed_points / 100, 1.0)
    spread = Z_ONE_SIDED * sqrt(share * (1 - share))
    return ceil(((spread + sqrt(spread**2 + 4 * share * CORRECTION)) / (2 * share)) ** 2)


# -- classes and slices --------------------------------------------------------------------------------


def class_losses(
    targets: ArrayLike, reference_predicted: ArrayLike, candidate_predicted: ArrayLike, labels: Sequence[str]
) -> tuple[PartLoss, ...]:
    """Return the loss on the rows of each true class (its loss of recall), in the order of ``labels``.

    The arrays hold positions in ``labels``, shape (n,). A class without a row is left out: nothing is known of
    it.
    """
    truth = np.asarray(targets)
    before, after = np.asarray(reference_predicted) == truth, np.asarray(candidate_predicted) == truth
    return slice_losses(before, after, {label: truth == i for i, label in enumerate(labels)})


def slice_losses(
    reference_right: ArrayLike, candidate_right: ArrayLike, slices: Mapping[str, Mask]
) -> tuple[PartLoss, ...]:
    """Return the loss on each slice, a mask of shape (n,); one without a row is left out."""
    before, after = np.asarray(reference_right, bool), np.asarray(candidate_right, bool)
    _check_pairs(before, after)
    return tuple(
        PartLoss(name, paired_loss(before[rows], after[rows])) for name, rows in slices.items() if rows.any()
    )


def length_slices(token_counts: ArrayLike) -> dict[str, Mask]:
    """Return the rows in three parts of about equal size by their number of tokens, the shortest first.

    Rows of equal length stay together, so there may be fewer parts.
    """
    counts = np.asarray(token_counts)
    edges = np.quantile(counts, [1 / 3, 2 / 3], method="inverted_cdf")
    part = np.searchsorted(edges, counts, side="left")
    masks = [part == i for i in range(3)]
    return {f"{counts[rows].min()} to {counts[rows].max()} tokens": rows for rows in masks if rows.any()}


def language_slices(langs: Sequence[str]) -> dict[str, Mask]:
    """Return the rows of each language, in alphabetical order."""
    column = np.asarray(langs)
    return {f"language {lang}": column == lang for lang in sorted(set(langs))}


def broken_classes(
    parts: Sequence[PartLoss], tolerance_points: float, *, level: float = LEVEL
) -> tuple[PartLoss, ...]:
    """Return the classes or slices proven to lose more than ``tolerance_points``.

    The chance that any of those within the tolerance is named is at most ``level``, however many there are.
    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    chances = [
        chance_of_such_a_loss(part.loss.lost, part.loss.gained, part.loss.n, tolerance_points / 100)
        for part in parts
    ]
    broken: set[int] = set()
    for rank, i in enumerate(sorted(range(len(parts)), key=chances.__getitem__)):
        if chances[i] > level / (len(parts) - rank):
            break
        broken.add(i)
    return tuple(part for i, part in enumerate(parts) if i in broken)


def chance_of_such_a_loss(lost: int, gained: int, n: int, tolerance: float) -> float:
    """Return the p-value of "the true loss is at most ``tolerance``" (a share).

    Exact: the chance of a score as large, under the least favourable share of gained rows; normal when more than
    ``EXACT_UP_TO`` rows differ. The sign test is its conditional counterpart, but knows no tolerance above 0.
    Source: Lloyd and Moldovan, Statistics in Medicine 26 (2007); Berger and Boos, JASA 89 (1994).
    """
    if lost - gained <= n * tolerance:
        return 1.0
    observed = float(_score(np.asarray(lost, np.float64), np.asarray(gained, np.float64), n, tolerance))
    if lost + gained > EXACT_UP_TO:
        return erfc(observed / sqrt(2)) / 2
    least_gained = share_lower_bound(gained, n, UNLIKELY / 2)
    most_gained = min(1 - share_lower_bound(n - gained, n, UNLIKELY / 2), (1 - tolerance) / 2)
    worse, better = np.meshgrid(
        np.arange(_reach(n, most_gained + tolerance) + 1.0),
        np.arange(_reach(n, most_gained) + 1.0),
    )
    is_extreme = worse + better <= n
    is_extreme &= _score(worse, better, n, tolerance) >= observed - 1e-9
    worse, better = worse[is_extreme], better[is_extreme]
    same = n - worse - better
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, n + 1)))])
    ways = log_factorial[n] - sum(log_factorial[count.astype(np.int64)] for count in (worse, better, same))
    largest = 0.0
    # Squared: the chance changes most where the share is small.
    for share in least_gained + (most_gained - least_gained) * np.linspace(0, 1, SHARES_TRIED) ** 2:
        lost_share, gained_share, same_share = (
            max(value, 1e-300) for value in (share + tolerance, share, 1 - tolerance - 2 * share)
        )
        chances = np.exp(
            ways + worse * np.log(lost_share) + better * np.log(gained_share) + same * np.log(same_share)
        )
        largest = max(largest, float(chances.sum()))
    return min(largest + UNLIKELY, 1.0)


def _reach(n: int, share: float) -> int:
    """Return a count that a binomial one does not exceed, but in one case of 10^15."""
    mean = n * share
    return min(n, ceil(mean + 9 * sqrt(mean) + 20))


# -- scores of queries ---------------------------------------------------------------------------------


def paired_metric_loss(
    reference_scores: ArrayLike, candidate_scores: ArrayLike, *, seed: int = 0, worst_change: float | None = None
) -> Loss:
    """Return the loss of a mean score such as nDCG; both arguments are in [0, 1] by query, shape (n,).

    Percentile interval of a Bayesian bootstrap of the differences, with one further query that changes by as much
    as any seen did (by 1 when none did). In simulations of 150 and 500 queries, rare and skewed losses among them,
    the bound covers in 0.956 or more, where a plain bootstrap has 0.79; when two or three of 50 queries change,
    0.90 against 0.74. A change far larger than any seen is not foreseen; with ``worst_change=1`` it is, at up to
    three points of 100 queries, and the bound is Gaffke's. Raises ValueError when shapes differ, there is no query
    or a score is not finite.
    Source: Rubin, Annals of Statistics 9 (1981); Phan et al., Towards practical mean bounds, ICML 2021.
    """
    before, after = np.asarray(reference_scores, np.float64), np.asarray(candidate_scores, np.float64)
    _check_pairs(before, after)
    change = before - after
    if not np.isfinite(change).all():
        raise ValueError("a score is not a finite number: a loss cannot be told")
    n, mean = len(change), float(change.mean())
    moved = change[change != 0]
    if worst_change is None:
        worst_change = float(np.abs(moved).max()) if len(moved) else 1.0
    means, further = _drawn_means(moved, n, seed)
    above, below = means + further * worst_change, means - further * worst_change
    return Loss(
        points=100 * mean,
        low=100 * min(float(np.quantile(below, 0.025)), mean),
        high=100 * max(float(np.quantile(above, 0.975)), mean),
        upper=100 * max(float(np.quantile(above, 0.95)), mean),
        n=n,
        lost=int((change > 0).sum()),
        gained=int((change < 0).sum()),
    )


def _drawn_means(moved: Floats, n: int, seed: int) -> tuple[Floats, Floats]:
    """Return means of n differences under drawn weights, and the weight of one more row, each (draws,).

    ``moved`` holds the differences that are not 0; the weights of the others are drawn as one.
    """
    random = np.random.default_rng([seed, 4])
    means, further = np.empty(DRAWS), np.empty(DRAWS)
    for start in range(0, DRAWS, DRAWS_AT_ONCE):
        weights = random.standard_exponential((DRAWS_AT_ONCE, len(moved)))
        still = random.standard_gamma(n - len(moved), DRAWS_AT_ONCE)
        extra = random.standard_exponential(DRAWS_AT_ONCE)
        total = weights.sum(axis=1) + still + extra
        means[start : start + DRAWS_AT_ONCE] = weights @ moved / total
        further[start : start + DRAWS_AT_ONCE] = extra / total
    return means, further


# -- out of scope --------------------------------------------------------------------------------------


def auroc(in_scope_scores: ArrayLike, out_scores: ArrayLike) -> Metric:
    """Return how often a text in scope scores above one out of scope; a tie counts half.

    The arguments have shapes (n_in,) and (n_out,). The 95 % interval is DeLong's on the logit scale, with one
    further text on each side that is told apart by chance: without it a perfect separation would have no width. In
    simulations it covers in 0.938 (30 texts a side, AUROC 0.96) to 0.977. Raises ValueError when a side is empty.
    Source: DeLong et al., Biometrics 44 (1988).
    """
    inside, outside = np.asarray(in_scope_scores, np.float64), np.asarray(out_scores, np.float64)
    if not (len(inside) and len(outside)):
        raise ValueError(f"AUROC needs texts on both sides, but got {len(inside)} in scope and {len(outside)} out")
    of_inside, of_outside = _share_below(inside, outside), 1 - _share_below(outside, inside)
    value = float(of_inside.mean())
    sides = [np.append(shares, 0.5) for shares in (of_inside, of_outside)]
    centre = float(np.mean([shares.mean() for shares in sides]))
    variance = sum(float(shares.var(ddof=1)) / len(shares) for shares in sides)
    half = Z_TWO_SIDED * sqrt(variance) / (centre * (1 - centre))
    logit = float(np.log(centre / (1 - centre)))
    low, high = (float(1 / (1 + np.exp(-end))) for end in (logit - half, logit + half))
    return Metric("out_of_scope_auroc", value, min(low, value), max(high, value), len(inside) + len(outside))


def _share_below(scores: Floats, others: Floats) -> Floats:
    """Return the share of ``others`` below each score, those equal to it counted half."""
    ordered = np.sort(others)
    below, up_to = np.searchsorted(ordered, scores, "left"), np.searchsorted(ordered, scores, "right")
    shares: Floats = (below + up_to) / (2 * len(others))
    return shares


# -- into the passport ---------------------------------------------------------------------------------


def loss_metric(loss: Loss, name: str = "accuracy_loss_points") -> Metric:
    """Return a loss as a metric, in percentage points, for a bound such as ``accuracy_loss_points <= 0.5``.

    Unlike other metrics its ``high`` is the one-sided 95 % bound, which is what such a bound is about; ``low`` is
    the lower end of the two-sided interval.
    """
    return Metric(name, loss.points, loss.low, loss.upper, loss.n)


def _check_pairs(before: NDArray[np.generic], after: NDArray[np.generic]) -> None:
    if before.shape != after.shape or before.ndim != 1:
        raise ValueError(f"a loss needs the same rows of both: shapes {before.shape} and {after.shape}")
    if len(before) == 0:
        raise ValueError("a loss over no rows has no meaning")
