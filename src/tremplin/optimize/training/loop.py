"""The training loop: one for everything that is trained.

    batches of an epoch -> loss -> step -> (every epoch) score on held-out rows -> best weights -> stop early

A run that is killed goes on from its last checkpoint and ends as if it had not been: the order of examples comes
from the seed and the epoch, and the state of the random numbers is kept with the weights.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tremplin.errors import TrainingFailed
from tremplin.optimize.training.batches import Numbers, epoch_batches
from tremplin.progress import Progress, silent

CHECKPOINT_EVERY_S = 2.0
SAVING_SHARE = 0.05
"""Share of the time that may go into checkpoints: those of large networks are written less often."""
HEAD_PARTS = ("head.",)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn."""

    epochs: float = 3.0
    batch_rows: int = 64
    learning_rate: float = 3e-4
    head_learning_rate: float = 3e-3
    """Of the last layer, which begins with nothing."""
    warmup: float = 0.1
    """Share of the steps over which the rates rise from 0; they fall to 0 over the rest."""
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    dropout: float = 0.1
    patience: int = 2
    """Evaluations without a better score before the run stops; 0 never stops early."""
    evaluations_per_epoch: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Point:
    """One evaluation."""

    step: int
    epoch: float
    loss: float
    """Mean loss of the steps since the point before."""
    score: float
    """On held-out rows; higher is better."""
    seconds: float


@dataclass(frozen=True)
class Training:
    """What a run was: its learning curve and how it ended."""

    points: tuple[Point, ...]
    best: Point
    steps: int
    stopped_early: bool
    resumed_at: int
    """Step it was continued from; 0 when it ran in one go."""
    seconds: float

    def as_json(self) -> dict[str, object]:
        """Return it as JSON values, for the report."""
        return asdict(self)


LossOf = Callable[[Numbers], Tensor]
"""The loss of the examples with these numbers, (); its module is in training mode."""
Score = Callable[[], float]
"""What the module is worth on held-out rows; it is in evaluation mode, without gradients."""


def train(
    module: nn.Module,
    lengths: Numbers,
    loss_of: LossOf,
    score: Score,
    schedule: Schedule,
    *,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> Training:
    """Train a module in place; it holds the weights of the best evaluation at the end.

    ``lengths`` are tokens by example, (n,). With a ``checkpoint`` path the run is continued from the file when it
    is there and of the same schedule, and the file is removed at the end.
    Raises TrainingFailed when the loss is no longer a number or memory runs out.
    """
    run = _Run(module, lengths, schedule, checkpoint)
    run.restore()
    with _explained(schedule, run):
        for number in run.steps_left():
            module.train()
            loss = loss_of(number)
            run.learn(loss)
            if run.is_evaluation():
                module.eval()
                with torch.no_grad():
                    run.evaluate(score())
                if run.is_patience_spent():
                    run.stopped_early = True
                    break
            run.keep()
            progress(_told(run), run.share)
    return run.finish()


def _told(run: _Run) -> str:
    left = run.seconds_left()
    time_left = f"{left:.0f} s left" if left < 100 else f"{left / 60:.0f} min left"
    best = f", best {run.best.score:.4f}" if run.best else ""
    return f"{run.epoch:.2f} of {run.schedule.epochs:g} epochs{best}, {time_left}"


@dataclass
class _Run:
    """The state of a run: what a checkpoint holds."""

    module: nn.Module
    lengths: Numbers
    schedule: Schedule
    checkpoint: Path | None
    step: int = 0
    resumed_at: int = 0
    points: list[Point] = field(default_factory=list)
    best: Point | None = None
    stopped_early: bool = False

    def __post_init__(self) -> None:
        schedule = self.schedule
        self._rows = max(1, min(schedule.batch_rows, len(self.lengths)))
        self._per_epoch = math.ceil(len(self.lengths) / self._rows)
        self.total = max(1, round(schedule.epochs * self._per_epoch))
        self._evaluation_steps = self._chosen_steps()
        self._optimizer = torch.optim.AdamW(_groups(self.module, schedule), fused=True)
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._best_state: dict[str, Tensor] = {}
        self._loss_sum, self._loss_count = 0.0, 0
        self._seconds_before, self._started = 0.0, time.monotonic()
        self._saved, self._saving_s = time.monotonic(), 0.0
        torch.manual_seed(schedule.seed)

    def _chosen_steps(self) -> set[int]:
        count = max(1, round(self.schedule.epochs * self.schedule.evaluations_per_epoch))
        return {math.ceil(self.total * (i + 1) / count) for i in range(count)}

    # -- going through the steps --------------------------------------------------------------------

    @property
    def epoch(self) -> float:
        return self.step / self._per_epoch

    @property
    def share(self) -> float:
        return self.step / self.total

    @property
    def seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def seconds_left(self) -> float:
        done = self.step - self.resumed_at
        return (time.monotonic() - self._started) / max(done, 1) * (self.total - self.step)

    def steps_left(self) -> Iterator[Numbers]:
        """Yield the examples of each step that is still to be done."""
        while self.step < self.total and not self.stopped_early:
            epoch, within = divmod(self.step, self._per_epoch)
            batches = epoch_batches(self.lengths, self._rows, seed=self.schedule.seed, epoch=epoch)
            for batch in batches[within:]:
                if self.step >= self.total:
                    return
                yield batch

    def learn(self, loss: Tensor) -> None:
        """Make one step along the gradient of a loss."""
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingFailed(
                f"The loss is {value} at step {self.step} of {self.total}: the training diverged. Lower the "
                f"learning rate (now {self.schedule.learning_rate:g}), or look for broken texts or labels."
            )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), self.schedule.clip_norm)
        factor = self._factor()
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        self._optimizer.step()
        self.step += 1
        self._loss_sum += value
        self._loss_count += 1

    def _factor(self) -> float:
        """Linear rise, then linear fall."""
        warm = max(1.0, self.schedule.warmup * self.total)
        now = self.step + 1
        return now / warm if now <= warm else max(0.0, (self.total - self.step) / max(1.0, self.total - warm))

    def is_evaluation(self) -> bool:
        return self.step in self._evaluation_steps

    def evaluate(self, score: float) -> None:
        """Note a score, and the weights when it is the best so far."""
        loss = self._loss_sum / max(self._loss_count, 1)
        self._loss_sum, self._loss_count = 0.0, 0
        point = Point(self.step, self.epoch, loss, score, self.seconds)
        self.points.append(point)
        # Of two equal scores the later one: it has seen more and its rate was lower.
        if self.best is None or score >= self.best.score:
            self.best = point
            self._best_state = {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    def is_patience_spent(self) -> bool:
        if not self.schedule.patience or self.best is None:
            return False
        since = sum(point.step > self.best.step for point in self.points)
        return since >= self.schedule.patience

    def finish(self) -> Training:
        """Put the best weights in place and return what the run was."""
        if self.best is None:
            raise TrainingFailed("The run ended without an evaluation; this is a bug.")
        self.module.load_state_dict(self._best_state)
        self.module.eval()
        if self.checkpoint is not None:
            self.checkpoint.unlink(missing_ok=True)
        return Training(
            tuple(self.points), self.best, self.step, self.stopped_early, self.resumed_at, self.seconds
        )

    # -- the checkpoint -----------------------------------------------------------------------------

    def keep(self) -> None:
        """Save the state when the last time is long enough ago; after an evaluation, so that none is left out."""
        due = max(CHECKPOINT_EVERY_S, self._saving_s / SAVING_SHARE)
        if self.checkpoint is not None and time.monotonic() - self._saved > due:
            self.save()

    def save(self) -> None:
        """Write the state beside its place, then rename: a killed process leaves the one before."""
        if self.checkpoint is None:
            return
        started = time.monotonic()
        state: dict[str, Any] = {
            "of": repr((self.schedule, len(self.lengths), int(self.lengths.sum()))),
            "step": self.step,
            "module": self.module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "best_state": self._best_state,
            "best": asdict(self.best) if self.best else None,
            "points": [asdict(point) for point in self.points],
            "loss": (self._loss_sum, self._loss_count),
            "random": torch.get_rng_state(),
            "seconds": self.seconds,
        }
        aside = self.checkpoint.with_name(self.checkpoint.name + ".part")
        with aside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, self.checkpoint)
        self._saving_s = time.monotonic() - started
        self._saved = time.monotonic()

    def restore(self) -> None:
        """Continue from the checkpoint, unless there is none or it belongs to another run."""
        if self.checkpoint is None or not self.checkpoint.is_file():
            return
        try:
            state = torch.load(self.checkpoint, weights_only=True)
        except Exception:  # torch raises many classes for a damaged file; a fresh start is always right
            return
        if state["of"] != repr((self.schedule, len(self.lengths), int(self.lengths.sum()))):
            return
        self.module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._best_state = state["best_state"]
        self.best = Point(**state["best"]) if state["best"] else None
        self.points = [Point(**point) for point in state["points"]]
        self._loss_sum, self._loss_count = state["loss"]
        self.step = self.resumed_at = state["step"]
        self._seconds_before = state["seconds"]
        torch.set_rng_state(state["random"])


def _groups(module: nn.Module, schedule: Schedule) -> list[dict[str, Any]]:
    """Return the parameters by rate and decay: biases and norms are not decayed (Devlin et al. 2019)."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            key = (name.startswith(HEAD_PARTS), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": schedule.head_learning_rate if is_head else schedule.learning_rate,
            "weight_decay": schedule.weight_decay if is_matrix else 0.0,
        }
        for (is_head, is_matrix), parameters in groups.items()
    ]


@contextmanager
def _explained(schedule: Schedule, run: _Run) -> Iterator[None]:
    """Turn what torch raises when memory runs out into an error that says what to do."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _out_of_memory(schedule, run) from error
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        raise _out_of_memory(schedule, run) from error


def _out_of_memory(schedule: Schedule, run: _Run) -> TrainingFailed:
    kept = " The run goes on from its last checkpoint when started again." if run.checkpoint else ""
    return TrainingFailed(
        f"Memory ran out at step {run.step} of {run.total} with {schedule.batch_rows} rows a batch. "
        f"Use {max(1, schedule.batch_rows // 2)} rows a batch.{kept}"
    )


def as_numbers(values: list[int]) -> Numbers:
    """Return int64 (n,)."""
    return np.array(values, np.int64)
