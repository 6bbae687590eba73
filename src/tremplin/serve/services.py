"""The services: what the gateway and the console call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tremplin.serve.timing import Timings
from tremplin.tasks.classify import Classification
from tremplin.tasks.embed import Vectors
from tremplin.tasks.explain import Explanation
from tremplin.tasks.search import Hit
from tremplin.tasks.zero_shot import CandidateLabel


@dataclass(frozen=True)
class Answered[Value]:
    """A result with the version that gave it and where the time went."""

    value: Value
    version: str
    timings: Timings


class Services:
    """DRAFT of the interface (being implemented)."""

    async def embed(self, texts: Sequence[str], *, model: str = "default") -> Answered[Vectors]: ...
    async def similarity(self, source: str, others: Sequence[str], *, model: str = "default") -> Answered[list[float]]: ...
    async def search(self, query: str, *, top_k: int = 5) -> Answered[list[Hit]]: ...
    async def classify(self, texts: Sequence[str], *, model: str = "default") -> Answered[list[Classification]]: ...
    async def zero_shot(self, text: str, labels: Sequence[CandidateLabel]) -> Answered[Classification]: ...
    async def explain(self, text: str, *, label: str | None = None, model: str = "default") -> Answered[Explanation]: ...
