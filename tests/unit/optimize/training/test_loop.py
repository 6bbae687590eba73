"""The training loop: it learns, it can be killed and goes on, it says what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from tremplin.errors import TrainingFailed  # noqa: E402
from tremplin.optimize.training import loop  # noqa: E402
from tremplin.optimize.training.batches import epoch_batches, padded  # noqa: E402
from tremplin.optimize.training.loop import Schedule, train  # noqa: E402

ROWS = 200
LENGTHS = np.random.default_rng(0).integers(3, 30, ROWS)
X = torch.from_numpy(np.random.default_rng(1).normal(0, 1, (ROWS, 6)).astype(np.float32))
Y = (X[:, 0] * 2 - X[:, 3] > 0).long()


class Line(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.inner = torch.nn.Linear(6, 8)
        self.head = torch.nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.nn.functional.dropout(torch.tanh(self.inner(x)), 0.2, self.training))


class Killed(BaseException):
    """Stands for the end of the process."""


def teach(module: Line, schedule: Schedule, *, checkpoint: Path | None = None, die_at: int | None = None):
    steps: Iterator[int] = iter(range(10_000))

    def loss_of(numbers: np.ndarray) -> torch.Tensor:
        if die_at is not None and next(steps) == die_at:
            raise Killed
        return torch.nn.functional.cross_entropy(module(X[numbers]), Y[numbers])

    def score() -> float:
        return float((module(X).argmax(1) == Y).float().mean())

    return train(module, LENGTHS, loss_of, score, schedule, checkpoint=checkpoint)


SCHEDULE = Schedule(epochs=6, batch_rows=16, learning_rate=1e-2, head_learning_rate=1e-2, patience=0)


def test_it_learns_and_tells_its_curve() -> None:
    module = Line()
    training = teach(module, SCHEDULE)
    assert training.best.score > 0.93
    assert [point.epoch for point in training.points] == [1, 2, 3, 4, 5, 6]
    assert training.points[-1].loss < training.points[0].loss
    assert training.steps == 6 * 13


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second, other = Line(), Line(), Line()
    teach(first, SCHEDULE)
    teach(second, SCHEDULE)
    teach(other, replace(SCHEDULE, seed=1))
    assert torch.equal(first.inner.weight, second.inner.weight)
    assert not torch.equal(first.inner.weight, other.inner.weight)


@pytest.mark.parametrize("die_at", [5, 13, 40])
def test_a_killed_run_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, die_at: int
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr(loop, "SAVING_SHARE", 1e9)
    whole, broken = Line(), Line()
    expected = teach(whole, SCHEDULE)
    checkpoint = tmp_path / "run.checkpoint"
    with pytest.raises(Killed):
        teach(broken, SCHEDULE, checkpoint=checkpoint, die_at=die_at)
    again = Line()
    training = teach(again, SCHEDULE, checkpoint=checkpoint)
    assert training.resumed_at == die_at
    assert torch.equal(again.inner.weight, whole.inner.weight)
    assert [p.score for p in training.points] == [p.score for p in expected.points]
    assert not checkpoint.exists()


def test_a_checkpoint_of_another_run_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr(loop, "SAVING_SHARE", 1e9)
    checkpoint = tmp_path / "run.checkpoint"
    with pytest.raises(Killed):
        teach(Line(), SCHEDULE, checkpoint=checkpoint, die_at=20)
    assert teach(Line(), replace(SCHEDULE, epochs=2), checkpoint=checkpoint).resumed_at == 0


def test_a_damaged_checkpoint_is_not_taken(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.checkpoint"
    checkpoint.write_bytes(b"half a file")
    assert teach(Line(), replace(SCHEDULE, epochs=1), checkpoint=checkpoint).resumed_at == 0


def test_it_stops_when_nothing_gets_better_and_keeps_the_best() -> None:
    module = Line()
    scores = iter([0.5, 0.9, 0.6, 0.7, 0.8, 0.95])
    kept = {}

    def score() -> float:
        value = next(scores)
        kept[value] = module.inner.weight.detach().clone()
        return value

    def loss_of(numbers: np.ndarray) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(module(X[numbers]), Y[numbers])

    training = train(module, LENGTHS, loss_of, score, replace(SCHEDULE, patience=2))
    assert training.stopped_early
    assert training.best.score == 0.9
    assert torch.equal(module.inner.weight, kept[0.9])


def test_a_loss_that_is_no_number_stops_with_what_to_do() -> None:
    module = Line()
    with pytest.raises(TrainingFailed, match="learning rate"):
        train(module, LENGTHS, lambda _: module.head.weight.sum() * float("nan"), lambda: 0.0, SCHEDULE)


def test_memory_that_runs_out_says_how_many_rows_to_take(tmp_path: Path) -> None:
    def loss_of(_: np.ndarray) -> torch.Tensor:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(TrainingFailed, match="8 rows"):
        train(Line(), LENGTHS, loss_of, lambda: 0.0, SCHEDULE, checkpoint=tmp_path / "c")


def test_every_row_comes_once_an_epoch_and_batches_hold_near_lengths() -> None:
    lengths = np.random.default_rng(3).integers(3, 60, 5_000)
    batches = epoch_batches(lengths, 32, seed=0, epoch=0)
    assert sorted(np.concatenate(batches).tolist()) == list(range(5_000))
    padded_tokens = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    assert padded_tokens < 1.1 * lengths.sum()
    other = epoch_batches(lengths, 32, seed=0, epoch=1)
    assert any(not np.array_equal(a, b) for a, b in zip(batches, other, strict=True))


def test_rows_are_padded_on_the_right() -> None:
    ids, mask = padded([[5, 6, 7], [8], [9, 1]], [1, 0])
    assert ids.tolist() == [[8, 0, 0], [5, 6, 7]]
    assert mask.tolist() == [[1, 0, 0], [1, 1, 1]]
