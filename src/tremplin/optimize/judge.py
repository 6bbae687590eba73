"""What engines answer, against what they should: the evidence that a bound is checked with.

``python -m tremplin.optimize.judge`` judges in a process of its own: what it loads does not stay in a server.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tremplin.errors import EngineFailed
from tremplin.optimize.quality import (
    batch_dependence,
    classification_metrics,
    embedding_metrics,
)
from tremplin.optimize.run_graph import run_rows
from tremplin.optimize.texts import EvaluationTexts, bundled_texts
from tremplin.registry.manifest import Interface
from tremplin.registry.passport import Metric, extreme_metric
from tremplin.registry.task import Task
from tremplin.serve.engine import SERVED_OUTPUT, Engine
from tremplin.serve.engines.catalogue import EngineSpec
from tremplin.serve.tokenize import TextTokenizer

TIMEOUT_S = 900


@dataclass(frozen=True)
class Answers:
    """What an engine answers on the evaluation texts and, for an encoder, on the passages."""

    texts: NDArray[np.float32]
    passages: NDArray[np.float32] | None


class Judge:
    """Compares engines with one reference, whose answers are computed once."""

    def __init__(
        self, reference: Engine, interface: Interface, tokenizer: TextTokenizer, texts: EvaluationTexts
    ) -> None:
        self._interface = interface
        self._texts = texts
        self._output = SERVED_OUTPUT[interface.task]
        self._rows = tokenizer.encode(texts.evaluation).ids
        self._passages = tokenizer.encode(texts.passages).ids if interface.task is Task.EMBEDDING else []
        self._reference = self.answers(reference)

    def answers(self, engine: Engine) -> Answers:
        """Return what a loaded engine answers."""
        texts = np.stack(run_rows(engine, self._rows, self._output))
        if not self._passages:
            return Answers(texts, None)
        return Answers(texts, np.stack(run_rows(engine, self._passages, self._output)))

    def metrics(self, engine: Engine, answers: Answers | None = None) -> tuple[Metric, ...]:
        """Return how near an engine's answers are to the reference's, and whether they depend on neighbours."""
        found, reference = answers or self.answers(engine), self._reference
        if reference.passages is not None and found.passages is not None:
            near = embedding_metrics(reference.texts, found.texts, reference.passages, found.passages)
        else:
            near = classification_metrics(reference.texts, found.texts, self._interface.labels, self._texts.labels)
        return (*near, batch_dependence(engine, self._rows, self._output))


def judge_engine(
    engine: EngineSpec,
    proven: EngineSpec,
    reference: EngineSpec,
    interface: Interface,
    tokenizer: Path,
) -> tuple[Metric, ...]:
    """Return the metrics of an engine that runs a version, judged on the bundled texts.

    ``reference`` answers as the version should (its float32 ancestor, or itself), ``proven`` is what the
    version's quality was proven with. Beside the quality metrics there is ``engine_difference_max``, the largest
    difference of any output component from ``proven``. Raises EngineFailed.
    """
    order = {
        "engine": asdict(engine),
        "proven": asdict(proven),
        "reference": asdict(reference),
        "interface": asdict(interface),
        "tokenizer": str(tokenizer),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tremplin.optimize.judge"],
            input=json.dumps(order), capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise EngineFailed(f"Judging {engine.name} took longer than {TIMEOUT_S} s and was stopped.") from None
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise EngineFailed(f"{engine.name} could not be judged: {reason[0]}")
    return tuple(Metric(**metric) for metric in json.loads(done.stdout))


def _judge_here(order: dict[str, dict[str, object]]) -> list[Metric]:
    interface = _interface(order["interface"])
    specs = [EngineSpec.of(order[name]) for name in ("reference", "proven", "engine")]
    opened: dict[EngineSpec, Engine] = {}
    for spec in specs:
        if spec not in opened:
            opened[spec] = spec.make()
            opened[spec].load()
    reference, proven, engine = (opened[spec] for spec in specs)
    texts = bundled_texts()
    judge = Judge(reference, interface, TextTokenizer(Path(str(order["tokenizer"])), interface), texts)
    answers = judge.answers(engine)
    difference = float(np.abs(answers.texts - judge.answers(proven).texts).max())
    return [
        *judge.metrics(engine, answers),
        extreme_metric("engine_difference_max", difference, len(answers.texts)),
    ]


def _interface(given: dict[str, object]) -> Interface:
    labels: Sequence[str] = given["labels"]  # type: ignore[assignment]
    return Interface(**given | {"task": Task(str(given["task"])), "labels": tuple(labels)})  # type: ignore[arg-type]


if __name__ == "__main__":
    json.dump([asdict(metric) for metric in _judge_here(json.load(sys.stdin))], sys.stdout)
