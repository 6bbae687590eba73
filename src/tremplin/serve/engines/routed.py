"""Several engines for one version: each batch goes to the one that is predicted to be fastest for its shape.

No engine wins everywhere: one is quicker for a lone text, another for batches (docs/decisions/0018). Which one
depends on the machine, so it is learned: each engine has costs of its own, measured at warm-up and refined by
every batch it runs. Only engines whose answers agree are put together, so that an answer does not depend on its
neighbours through the engine that computed it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tremplin.errors import EngineNotRunning
from tremplin.registry.passport import BatchCosts
from tremplin.serve.costs import CostModel
from tremplin.serve.engine import Engine, Outputs, TokenBatch

# Shapes by which a choice of engines is told to people: a lone short text, a batch of them, a long text.
TOLD = ((1, 16), (8, 16), (1, 128), (1, 256))


@dataclass(frozen=True)
class Route:
    """One engine and what its batches cost."""

    engine: Engine
    costs: CostModel


class RoutedCosts(CostModel):
    """What a batch costs with the engine that is fastest for it."""

    def __init__(self, routes: Sequence[BatchCosts]) -> None:
        # The first engine's costs say what a row's own work is: work is a unit, and any engine's will do.
        super().__init__(routes[0])
        self.models = [CostModel(costs) for costs in routes]

    def batch_s(self, rows: int, width: int) -> float:
        """Return the predicted seconds of a batch with its fastest engine, the machine's drift apart."""
        model = self.models[self.fastest(rows, width)]
        return model.batch_s(rows, width) * model.drift / self.drift

    def observe(self, rows: int, width: int, seconds: float) -> None:
        """Take over what the engine that ran the batch has learned from it."""
        self.drift = self.models[self.fastest(rows, width)].drift

    def fastest(self, rows: int, width: int) -> int:
        """Return which engine is predicted to be fastest for a batch."""
        return min(range(len(self.models)), key=lambda i: self._with(self.models[i], rows, width))

    @staticmethod
    def _with(model: CostModel, rows: int, width: int) -> float:
        return model.batch_s(rows, width) * model.drift


class RoutedEngine:
    """Engines side by side, behind the interface of one."""

    def __init__(self, engines: Sequence[Engine], costs: RoutedCosts) -> None:
        if len(engines) != len(costs.models):
            raise ValueError(f"{len(engines)} engines were given costs for {len(costs.models)}")
        self._routes = [Route(engine, model) for engine, model in zip(engines, costs.models, strict=True)]
        self._costs = costs
        self.outputs: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The engines and what each is chosen for."""
        return " | ".join(route.engine.name for route in self._routes)

    def load(self) -> None:
        """Load every engine; raises EngineFailed when one cannot be."""
        for route in self._routes:
            route.engine.load()
        self.outputs = self._routes[0].engine.outputs

    def warm_up(self) -> None:
        """Warm up every engine."""
        for route in self._routes:
            route.engine.warm_up()

    def run(self, batch: TokenBatch) -> Outputs:
        """Return every output of the graph for a batch, and learn what it cost."""
        if not self.outputs:
            raise EngineNotRunning("The engine was asked to run before it was loaded, or after it was closed.")
        route = self._routes[self._costs.fastest(batch.rows, batch.width)]
        started = time.perf_counter()
        outputs = route.engine.run(batch)
        route.costs.observe(batch.rows, batch.width, time.perf_counter() - started)
        return outputs

    def health(self) -> bool:
        """Return whether every engine can run a batch."""
        return bool(self.outputs) and all(route.engine.health() for route in self._routes)

    def close(self) -> None:
        """Free every engine."""
        self.outputs = ()
        for route in self._routes:
            route.engine.close()


def plan(names: Sequence[str], costs: RoutedCosts) -> str:
    """Return which engine is chosen for which shape, for people: ``1x16 onnxruntime, 8x16 openvino``."""
    return ", ".join(f"{rows}x{tokens} {names[costs.fastest(rows, tokens)]}" for rows, tokens in TOLD)
