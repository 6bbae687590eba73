"""What a metric is called and how it is read, told from its name.

Whoever measures names the metric (``label_agreement``, ``cosine_min``); the words it is made of say whether
it is a share, whether less is better, and whether it compares a version with its reference.
"""

from __future__ import annotations

from dataclasses import dataclass

from tremplin.optimize.report.numbers import NOT_MEASURED, alone, decimals_for, number, with_unit
from tremplin.registry.passport import Metric

SHARES = {
    "agreement",
    "accuracy",
    "precision",
    "recall",
    "f1",
    "share",
    "coverage",
    "ndcg",
    "hit",
    "rate",
    "flipped",
}
# Already in percentage points, whatever they are points of.
POINTS = "points"
LESS_IS_BETTER = {"difference", "error", "loss", "dependence", "ece", "brier", "distance", "divergence", "flipped"}
AGAINST_REFERENCE = {"agreement", "cosine", "difference", "parity"}
ACRONYMS = {"f1": "F1", "ece": "ECE", "ndcg": "nDCG", "mrr": "MRR", "auc": "AUC", "auroc": "AUROC"}
# What a version that is the reference itself scores.
PERFECT = {"agreement", "cosine"}

MEANINGS = {
    "cosine_mean": "mean cosine between a text's vector and the reference's vector",
    "cosine_min": "the worst such cosine over all texts",
    "retrieval_agreement": "texts for which both find the same nearest passage",
    "label_agreement": "texts to which both give the same label",
    "probability_difference_max": "largest difference of any probability from the reference's",
    "batch_dependence": "largest change of an answer when other texts share its batch",
    "accuracy": "texts whose label is the right one",
    "accuracy_reference": "accuracy of the reference on the same texts",
    "accuracy_loss_points": "right answers lost against the reference, up to the one-sided 95 % bound",
    "macro_f1": "F1 of each label, averaged with the same weight for all",
    "expected_calibration_error": "mean gap between how sure an answer is and how often such answers are right",
    "coverage": "texts it answers rather than abstains from",
    "accuracy_when_answered": "texts whose label is the right one, of those it answers",
    "out_of_scope_auroc": "how often it is surer of a text in scope than of one out of scope",
    "answers_flipped_by_batch": "texts that get another label in a batch than alone",
}


@dataclass(frozen=True)
class MetricWords:
    """How one metric is read."""

    name: str
    label: str
    meaning: str
    is_share: bool
    is_less_better: bool
    is_against_reference: bool
    is_perfect_for_reference: bool
    is_in_points: bool = False

    @property
    def unit(self) -> str:
        """The unit of the numbers shown: shares are shown in per cent."""
        return "%" if self.is_share else POINTS if self.is_in_points else ""

    @property
    def factor(self) -> float:
        """What a measured value is multiplied by to be shown."""
        return 100.0 if self.is_share else 1.0


def read_as(name: str) -> MetricWords:
    """Return how the metric of this name is read."""
    words = set(name.lower().split("_"))
    return MetricWords(
        name=name,
        label=_label(name),
        meaning=MEANINGS.get(name, ""),
        is_share=bool(words & SHARES) and POINTS not in words,
        is_less_better=bool(words & LESS_IS_BETTER),
        is_against_reference=bool(words & AGAINST_REFERENCE),
        is_perfect_for_reference=bool(words & PERFECT),
        is_in_points=POINTS in words,
    )


def shown_value(metric: Metric | None) -> str:
    """Return a metric's value with its unit."""
    if metric is None:
        return NOT_MEASURED
    words = read_as(metric.name)
    value = metric.value * words.factor
    is_alone = metric.low == metric.high
    return with_unit(alone(value) if is_alone else number(value, _decimals(metric)), words.unit)


def shown_interval(metric: Metric | None) -> str:
    """Return the interval in brackets; empty for a metric that has none."""
    if metric is None or metric.low == metric.high:
        return ""
    factor, decimals = read_as(metric.name).factor, _decimals(metric)
    return f"[{number(metric.low * factor, decimals)}, {number(metric.high * factor, decimals)}]"


def shown_with_interval(metric: Metric | None) -> str:
    """Return the value and, where there is one, its interval."""
    return f"{shown_value(metric)} {shown_interval(metric)}".rstrip()


def shown_limit(name: str, limit: float) -> str:
    """Return a bound's number in the unit of its metric."""
    words = read_as(name)
    return with_unit(f"{limit * words.factor:.6g}", words.unit)


def _decimals(metric: Metric) -> int:
    words = read_as(metric.name)
    return decimals_for(metric.low * words.factor, metric.high * words.factor, unit=words.unit)


def _label(name: str) -> str:
    words = [ACRONYMS.get(word, word) for word in name.split("_") if word and word != POINTS]
    label = " ".join(words) or name
    return label if words and words[0] in ACRONYMS.values() else label[:1].upper() + label[1:]
