"""What a network is taught: token rows and what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Lesson:
    """Texts as one network reads them, and what is known of them."""

    rows: Sequence[Sequence[int]]
    targets: NDArray[np.int64]
    """(n,): the number of the right label, or ``objectives.IGNORED`` where it is not known."""
