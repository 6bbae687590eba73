"""Classification: calibrated probabilities, and the right to abstain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Score:
    """One label and how probable it is."""

    label: str
    probability: float


@dataclass(frozen=True)
class Classification:
    """What a classifier says of one text."""

    label: str | None
    """The most probable label; None when the classifier abstains."""
    abstained: bool
    scores: tuple[Score, ...]
    """Every label, most probable first."""

    @property
    def best(self) -> Score:
        """The most probable label, whether or not the classifier stands by it."""
        return self.scores[0]


def classification(
    probabilities: NDArray[np.float32], labels: Sequence[str], abstain_below: float | None
) -> Classification:
    """Return what (labels,) probabilities say; abstains when the best is below ``abstain_below``."""
    order = np.argsort(-probabilities, kind="stable")
    scores = tuple(Score(labels[i], float(probabilities[i])) for i in order)
    abstained = abstain_below is not None and scores[0].probability < abstain_below
    return Classification(None if abstained else scores[0].label, abstained, scores)
