"""Proof that a target's files answer as the version does: real texts, several lengths and batch sizes.

Both sides get the same padded batches; the reference is ONNX Runtime on the version's own graph. Of outputs with
one row for each token, the rows of padding are left out: nobody reads them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tremplin.errors import PassFailed, TremplinError
from tremplin.optimize.importing.parity import TOKEN_OUTPUTS
from tremplin.optimize.targets.target import Run, Shape
from tremplin.optimize.texts import EvaluationTexts
from tremplin.registry.manifest import Interface
from tremplin.registry.task import Task
from tremplin.serve.engine import Engine, Outputs, TokenBatch, pad
from tremplin.serve.engines.failures import what_it_said
from tremplin.serve.tokenize import TextTokenizer
from tremplin.serve.work import Tokens

Array = npt.NDArray[np.float32]

TEXTS = 61
# Rows of the batches, over and over: pairs, an odd number, powers of two.
BATCH_ROWS = (2, 3, 8, 16)
PAIR_TASKS = (Task.RERANKING, Task.QUESTION_ANSWERING)


@dataclass(frozen=True)
class Tolerance:
    """How far an output may be off."""

    largest: float
    """Of any number, times the largest magnitude of its output where that is above 1 (logits)."""
    relative: float
    """Of all numbers together: the length of the difference, as a share of the length of the output."""


# In another order of summing, unit vectors stay within 1e-6; the wrong one of the two gelu formulas moves them by
# 3e-4.
FLOAT32 = Tolerance(1e-5, 1e-4)
# Numbers of 11 bits, products summed in 32.
FLOAT16 = Tolerance(5e-3, 1e-2)
# An activation on the edge between two steps falls on either side with the last bit of a float, and six layers
# carry that on. ONNX Runtime itself, its graph optimizations on or off, moves MiniLM's int8 vectors by .0055 at
# most and .013 together, the probabilities of a classifier on them by .013. Products that overflow move all of
# them: a cosine to fp32 of .9971 instead of .9991 (docs/decisions/0011) is about .06 together.
INT8 = Tolerance(5e-2, 5e-2)


@dataclass(frozen=True)
class OutputDifference:
    """How far one output is from the reference, and how far it may be."""

    name: str
    max_difference: float
    allowed: float
    relative_difference: float
    """Length of the difference as a share of the output's length, over all texts."""
    allowed_relative: float


@dataclass(frozen=True)
class TargetParity:
    """How far a target's answers are from the version's."""

    runtime: str
    reference: str
    texts: str
    """Name of the texts that were compared on."""
    n: int
    """Texts, or pairs of texts, compared."""
    shapes: tuple[str, ...]
    """Rows and tokens of each batch."""
    tolerance: Tolerance
    max_difference: float
    outputs: tuple[OutputDifference, ...]
    label_agreement: float | None
    """Share of answers with the version's label; None when the task has no labels."""

    @property
    def nearest_to_its_limit(self) -> OutputDifference:
        """The output that uses most of what it may differ by."""
        return max(self.outputs, key=lambda output: output.max_difference / output.allowed)


def tolerance_of(precision: str, *, is_half: bool) -> Tolerance:
    """Return how far an answer may be off, for a version's precision and a target that may compute in float16."""
    if precision != "fp32":
        return INT8
    return FLOAT16 if is_half else FLOAT32


def parity_rows(tokenizer: TextTokenizer, interface: Interface, texts: EvaluationTexts) -> list[Tokens]:
    """Return the texts to compare on, tokenized and sorted by length: from the shortest there is to a full row.

    Pairs where the task reads pairs, both where a graph takes token types.
    """
    chosen = _spread(texts.evaluation, TEXTS - 1)
    long_text = " ".join(texts.passages)
    pairs = list(zip(_spread(texts.evaluation, TEXTS // 2), texts.passages, strict=False))
    rows: list[Tokens] = []
    if interface.task not in PAIR_TASKS:
        rows += tokenizer.encode([*chosen, long_text]).rows
    if interface.task in PAIR_TASKS or interface.needs_token_type_ids:
        rows += tokenizer.encode_pairs([*pairs, (chosen[0], long_text)]).rows
    return sorted(rows, key=len)


def parity_batches(rows: Sequence[Tokens], largest: Shape | None = None) -> list[TokenBatch]:
    """Return rows, sorted by length, as batches: the extremes and a middle one alone, the rest mixed.

    ``largest`` is the most that a target runs: longer rows are cut, larger batches divided. Raises PassFailed when
    there is nothing to compare on.
    """
    if not rows:
        raise PassFailed("There is no text to compare on.")
    most_rows, most_tokens = (largest.rows, largest.tokens) if largest else (max(BATCH_ROWS), len(rows[-1]))
    cut = [Tokens(row.ids[:most_tokens], None if row.types is None else row.types[:most_tokens]) for row in rows]
    alone = sorted({0, len(cut) // 2, len(cut) - 1})
    groups = [[cut[index]] for index in alone]
    rest = [row for index, row in enumerate(cut) if index not in alone]
    random.Random(0).shuffle(rest)
    turn = 0
    while rest:
        count = min(BATCH_ROWS[turn % len(BATCH_ROWS)], most_rows)
        groups.append(rest[:count])
        rest, turn = rest[count:], turn + 1
    return [pad([row.ids for row in group], [row.types for row in group]) for group in groups]


def check_parity(
    run: Run,
    reference: Engine,
    batches: Sequence[TokenBatch],
    *,
    runtime: str,
    texts: str,
    tolerance: Tolerance,
    multi_label: bool = False,
    watch: Callable[[int], None] = lambda done: None,
) -> TargetParity:
    """Run the batches on both sides and return the evidence.

    Raises PassFailed when the target does not run a batch, when its outputs or their shapes are not the
    version's, and when one is off by more than the tolerance. ``watch`` is told how many batches are done.
    """
    comparison = _Comparison(runtime, tolerance, multi_label)
    for done, batch in enumerate(batches):
        comparison.add(batch, _run(run, batch, runtime), reference.run(batch))
        watch(done + 1)
    return TargetParity(
        runtime=runtime,
        reference=reference.name,
        texts=texts,
        n=sum(batch.rows for batch in batches),
        shapes=tuple(str(Shape(batch.rows, batch.width)) for batch in batches),
        tolerance=tolerance,
        outputs=(differences := comparison.differences()),
        max_difference=max(difference.max_difference for difference in differences),
        label_agreement=comparison.label_agreement(),
    )


@dataclass
class _Sums:
    """What is collected of one output."""

    largest: float = 0.0
    reach: float = 1.0
    squares: float = 0.0
    squares_expected: float = 0.0

    def add(self, found: Array, expected: Array) -> None:
        difference = found.astype(np.float64) - expected
        self.largest = max(self.largest, float(np.abs(difference).max(initial=0.0)))
        self.reach = max(self.reach, float(np.abs(expected).max(initial=0.0)))
        self.squares += float((difference**2).sum())
        self.squares_expected += float((expected.astype(np.float64) ** 2).sum())

    def difference(self, name: str, tolerance: Tolerance) -> OutputDifference:
        return OutputDifference(
            name,
            self.largest,
            tolerance.largest * self.reach,
            float(np.sqrt(self.squares / max(self.squares_expected, 1e-12))),
            tolerance.relative,
        )


class _Comparison:
    """Collects differences over batches; what is wrong at once is raised at once."""

    def __init__(self, runtime: str, tolerance: Tolerance, multi_label: bool) -> None:
        self._runtime = runtime
        self._tolerance = tolerance
        self._multi_label = multi_label
        self._sums: dict[str, _Sums] = {}
        self._same = self._labelled = 0

    def add(self, batch: TokenBatch, found: Outputs, expected: Outputs) -> None:
        if set(found) != set(expected):
            raise PassFailed(f"{self._runtime} gives {sorted(found)}, the version {sorted(expected)}.")
        for name, theirs in expected.items():
            ours = found[name]
            if ours.shape != theirs.shape:
                raise PassFailed(
                    f"{self._runtime} gives {name} of shape {ours.shape} for a batch of "
                    f"{batch.rows} x {batch.width}; the version gives {theirs.shape}."
                )
            self._add_output(name, *(_without_padding(name, values, batch) for values in (ours, theirs)))

    def differences(self) -> tuple[OutputDifference, ...]:
        """Return the difference of each output; raises PassFailed when one is beyond what is allowed."""
        found = tuple(sums.difference(name, self._tolerance) for name, sums in self._sums.items())
        for output in found:
            if not output.max_difference <= output.allowed:
                raise PassFailed(
                    f"{self._runtime} gives {output.name} that differ from the version's by "
                    f"{output.max_difference:.3g}, allowed {output.allowed:.3g}. Nothing was exported."
                )
            if not output.relative_difference <= output.allowed_relative:
                raise PassFailed(
                    f"{self._runtime} gives {output.name} that differ from the version's by "
                    f"{output.relative_difference:.2%} of their length, allowed {output.allowed_relative:.2%}. "
                    "Nothing was exported."
                )
        return found

    def label_agreement(self) -> float | None:
        """Return the share of answers with the version's label.

        Differences are within the tolerance by then, so only labels that are nearly tied can have changed places.
        """
        return self._same / self._labelled if self._labelled else None

    def _add_output(self, name: str, ours: Array, theirs: Array) -> None:
        if not np.isfinite(ours).all():
            raise PassFailed(f"{self._runtime} gives {name} that is not finite.")
        self._sums.setdefault(name, _Sums()).add(ours, theirs)
        if name == "probabilities":
            self._count_labels(ours, theirs)

    def _count_labels(self, ours: Array, theirs: Array) -> None:
        ours, theirs = ours.reshape(-1, ours.shape[-1]), theirs.reshape(-1, theirs.shape[-1])
        if self._multi_label:
            same = ((ours >= 0.5) == (theirs >= 0.5)).all(axis=1)
        else:
            same = ours.argmax(axis=1) == theirs.argmax(axis=1)
        self._same += int(same.sum())
        self._labelled += len(same)


def _run(run: Run, batch: TokenBatch, runtime: str) -> Outputs:
    try:
        return run(batch)
    except TremplinError:
        raise
    except Exception as error:  # runtimes raise classes of their own
        raise PassFailed(
            f"{runtime} does not run a batch of {batch.rows} x {batch.width}: {what_it_said(error)}. "
            "Nothing was exported."
        ) from error


def _without_padding(name: str, values: Array, batch: TokenBatch) -> Array:
    """Return an output without the rows of padding where it has one for each token."""
    is_per_token = name in TOKEN_OUTPUTS or values.ndim == 3
    return values[batch.attention_mask == 1] if is_per_token else values


def _spread(texts: Sequence[str], count: int) -> list[str]:
    """Return some texts at even steps of length, the shortest and the longest included."""
    by_length = sorted(texts, key=len)
    last = len(by_length) - 1
    places = sorted({round(index * last / max(count - 1, 1)) for index in range(min(count, len(by_length)))})
    return [by_length[place] for place in places]
