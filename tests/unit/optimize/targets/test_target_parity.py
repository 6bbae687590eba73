"""What is compared, and what is not let through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import tiny_models
from tests.unit.optimize.targets.exported_models import batches
from tremplin.errors import PassFailed
from tremplin.optimize.targets.parity import (
    FLOAT16,
    FLOAT32,
    INT8,
    Tolerance,
    check_parity,
    parity_batches,
    parity_rows,
    tolerance_of,
)
from tremplin.optimize.targets.target import Shape
from tremplin.optimize.texts import bundled_texts
from tremplin.registry.manifest import TOKENIZER_FILE, Interface
from tremplin.registry.task import Task
from tremplin.serve.engine import Outputs, TokenBatch
from tremplin.serve.tokenize import TextTokenizer
from tremplin.serve.work import Tokens

LOGITS = np.array([[12.0, -3.0], [1.0, 1.0]], np.float32)


class Fixed:
    """An engine that answers every batch alike."""

    name = "fixed 1"
    outputs = ("logits", "probabilities")

    def __init__(self, logits: np.ndarray = LOGITS) -> None:
        self._logits = logits

    def run(self, batch: TokenBatch) -> Outputs:
        powers = np.exp(self._logits)
        return {"logits": self._logits, "probabilities": powers / powers.sum(axis=1, keepdims=True)}


def compare(run: Callable[[TokenBatch], Outputs], tolerance: Tolerance = FLOAT32) -> None:
    check_parity(run, Fixed(), batches()[2:3], runtime="other 2", texts="none", tolerance=tolerance)  # type: ignore[arg-type]


def test_the_evidence_says_what_was_compared() -> None:
    parity = check_parity(
        Fixed(LOGITS + np.float32(5e-5)).run,
        Fixed(),  # type: ignore[arg-type]
        batches(),
        runtime="other 2",
        texts="words",
        tolerance=FLOAT32,
    )
    assert (parity.runtime, parity.reference, parity.texts) == ("other 2", "fixed 1", "words")
    assert parity.n == sum(batch.rows for batch in batches())
    assert len(parity.shapes) == len(batches())
    by_name = {output.name: output for output in parity.outputs}
    assert by_name["logits"].max_difference == pytest.approx(5e-5, rel=0.1)
    assert by_name["logits"].allowed == pytest.approx(12 * FLOAT32.largest), "held to their own magnitude"
    assert by_name["probabilities"].allowed == FLOAT32.largest
    assert by_name["logits"].relative_difference == pytest.approx(1e-4 / np.linalg.norm(LOGITS), rel=0.1)
    assert parity.label_agreement == 1.0


def test_a_difference_beyond_the_tolerance_is_refused() -> None:
    with pytest.raises(PassFailed, match=r"other 2 gives logits that differ .* by 0\.01, allowed 0\.00012"):
        compare(Fixed(LOGITS + np.float32(0.01)).run)


def test_a_difference_of_all_numbers_together_is_refused() -> None:
    with pytest.raises(
        PassFailed, match=r"gives logits that differ .* by 1\.\d+% of their length, allowed 0\.10%"
    ):
        compare(Fixed(LOGITS * np.float32(1.01)).run, Tolerance(0.05, 0.001))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"logits": LOGITS}, "gives"),
        ({"logits": LOGITS, "probabilities": LOGITS[:1]}, r"shape \(1, 2\)"),
        ({"logits": LOGITS, "probabilities": LOGITS * np.nan}, "not finite"),
    ],
)
def test_other_outputs_shapes_or_numbers_are_refused(answer: Outputs, said: str) -> None:
    with pytest.raises(PassFailed, match=said):
        compare(lambda batch: answer)


def test_labels_can_differ_only_where_they_are_nearly_tied() -> None:
    moved = LOGITS + np.array([[0, 0], [0, 5e-6]], np.float32)
    parity = check_parity(
        Fixed(moved).run,
        Fixed(),  # type: ignore[arg-type]
        batches()[:1],
        runtime="other 2",
        texts="none",
        tolerance=FLOAT32,
    )
    assert parity.label_agreement == 0.5


def test_what_a_runtime_raises_is_told() -> None:
    def run(batch: TokenBatch) -> Outputs:
        raise RuntimeError("no kernel for this")

    with pytest.raises(PassFailed, match=r"other 2 does not run a batch of 3 x .*: no kernel for this"):
        compare(run)


def test_padding_is_not_compared() -> None:
    def answer(batch: TokenBatch, at_padding: float) -> Outputs:
        hidden = np.where(batch.attention_mask[:, :, None] == 1, 1.0, at_padding).astype(np.float32)
        return {"token_embeddings": np.repeat(hidden, 3, axis=2)}

    class Reference(Fixed):
        def run(self, batch: TokenBatch) -> Outputs:
            return answer(batch, 0.0)

    parity = check_parity(
        lambda batch: answer(batch, 9.0),
        Reference(),  # type: ignore[arg-type]
        batches(),
        runtime="other 2",
        texts="none",
        tolerance=FLOAT32,
    )
    assert parity.max_difference == 0
    assert parity.label_agreement is None


def test_tolerance_follows_the_arithmetic() -> None:
    assert tolerance_of("fp32", is_half=False) == FLOAT32
    assert tolerance_of("fp32", is_half=True) == FLOAT16
    assert tolerance_of("int8", is_half=False) == INT8


@pytest.mark.parametrize("task", [Task.EMBEDDING, Task.CLASSIFICATION, Task.RERANKING])
def test_rows_reach_from_the_shortest_text_to_a_full_row(tmp_path: Path, task: Task) -> None:
    interface = Interface(task, 128, len(tiny_models.VOCABULARY), needs_token_type_ids=task is not Task.EMBEDDING)
    path = tiny_models.write_tokenizer(tmp_path / TOKENIZER_FILE, pairs=True)
    rows = parity_rows(TextTokenizer(path, interface), interface, bundled_texts())
    lengths = [len(row) for row in rows]
    assert lengths == sorted(lengths)
    assert lengths[-1] == 128
    if task is not Task.RERANKING:
        assert lengths[0] < 8
    assert any(row.types is not None for row in rows) == (task is not Task.EMBEDDING)
    assert any(row.types is None for row in rows) == (task is not Task.RERANKING)


def test_batches_hold_each_row_once_alone_and_mixed() -> None:
    rows = [Tokens([1] * length) for length in range(1, 41)]
    found = parity_batches(rows)
    assert sorted(int(length) for batch in found for length in batch.attention_mask.sum(axis=1)) == [*range(1, 41)]
    assert [(batch.rows, batch.width) for batch in found[:3]] == [(1, 1), (1, 21), (1, 40)]
    assert {batch.rows for batch in found} >= {1, 2, 3, 8, 16}


def test_batches_stay_within_the_largest_shape() -> None:
    found = parity_batches([Tokens([1] * length) for length in range(1, 41)], Shape(4, 10))
    assert max(batch.rows for batch in found) == 4
    assert max(batch.width for batch in found) == 10
    assert sum(batch.rows for batch in found) == 40


def test_nothing_to_compare_on_is_refused() -> None:
    with pytest.raises(PassFailed, match="no text"):
        parity_batches([])
