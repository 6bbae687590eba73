"""Zero-shot classification: the label whose description is nearest to the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tremplin.tasks.classify import Classification, classification
from tremplin.tasks.embed import Vectors

# Cosines of sentence encoders differ by a few hundredths between a right and a wrong label; this scale
# turns a difference of 0.07 into odds of about 4 to 1. The order of the labels does not depend on it.
TEMPERATURE = 0.05


@dataclass(frozen=True)
class CandidateLabel:
    """A label and the sentence that says what it means; the label itself serves when there is none."""

    label: str
    description: str = ""

    @property
    def text(self) -> str:
        """What is compared with the text."""
        return f"{self.label.replace('_', ' ')}: {self.description}" if self.description else self.label


def nearest_label(text: Vectors, candidates: Vectors, labels: Sequence[str]) -> Classification:
    """Return the labels by softmax of cosine / temperature.

    ``text`` is a unit vector (dim,), ``candidates`` the descriptions' unit vectors (labels, dim). The
    probabilities are relative to the labels offered and are not calibrated.
    """
    logits = (candidates @ text) / TEMPERATURE
    exponents = np.exp(logits - logits.max())
    probabilities = (exponents / exponents.sum()).astype(np.float32)
    return classification(probabilities, labels, None)
