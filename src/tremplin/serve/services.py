"""The services: what the gateway's routes and the console call, one method per task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from tremplin.errors import BadInput, EmptyText, TooManyInputs, UnknownName, UnknownService
from tremplin.registry.task import Task
from tremplin.serve.call import ANYONE, Call
from tremplin.serve.documents import DocumentIndex
from tremplin.serve.engine import TOKEN_EMBEDDINGS
from tremplin.serve.fleet import Fleet
from tremplin.serve.infer import Inferencer
from tremplin.serve.timing import Timings
from tremplin.tasks import explain, search, similarity, zero_shot
from tremplin.tasks.classify import Classification, classification
from tremplin.tasks.embed import Vectors, shorten
from tremplin.tasks.explain import Explanation
from tremplin.tasks.rerank import Ranked, ranking
from tremplin.tasks.search import Document, Hit
from tremplin.tasks.sparse import SparseVector, sparse_vector
from tremplin.tasks.zero_shot import CandidateLabel

Value_co = TypeVar("Value_co", covariant=True)

MAX_CANDIDATE_LABELS = 100
MAX_HITS = 100


@dataclass(frozen=True, slots=True)
class Answered(Generic[Value_co]):
    """A result with the version that gave it and where the time went."""

    value: Value_co
    version: str
    timings: Timings


class Services:
    """Every task over the loaded versions."""

    def __init__(self, fleet: Fleet, documents: Sequence[Document]) -> None:
        self.fleet = fleet
        self.documents = list(documents)
        self.index: DocumentIndex | None = None
        """What search looks in; replaced together with the version it was made with."""

    async def index_documents(self, cache: Path | None = None) -> None:
        """Make the documents searchable with the default version. ``cache`` is a folder for their vectors."""
        if self.documents and Task.EMBEDDING in self.fleet.defaults:
            self.index = await DocumentIndex.of(self.fleet.defaults[Task.EMBEDDING], self.documents, cache)

    async def embed(
        self,
        texts: Sequence[str],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        truncate: bool = True,
        call: Call = ANYONE,
    ) -> Answered[Vectors]:
        """Return one unit vector per text: (texts, dim) float32."""
        inferencer = self.fleet.find(model, Task.EMBEDDING)
        if dimensions is not None:
            shorten(np.zeros((1, inferencer.manifest.interface.embedding_dim or 1), np.float32), dimensions)
        inference = await inferencer.infer(texts, call, truncate=truncate)
        return Answered(
            shorten(inference.stacked("embedding"), dimensions), inferencer.manifest.ref, inference.timings
        )

    async def embed_ids(
        self,
        rows: Sequence[Sequence[int]],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        call: Call = ANYONE,
    ) -> Answered[Vectors]:
        """Return one unit vector per row of token ids."""
        inferencer = self.fleet.find(model, Task.EMBEDDING)
        inference = await inferencer.infer_ids(rows, call)
        return Answered(
            shorten(inference.stacked("embedding"), dimensions), inferencer.manifest.ref, inference.timings
        )

    async def embed_tokens(
        self, texts: Sequence[str], *, truncate: bool = True, call: Call = ANYONE
    ) -> Answered[list[NDArray[np.float32]]]:
        """Return one vector per token, special tokens included: for each text (tokens, hidden) float32."""
        inferencer = self._token_embedder()
        inference = await inferencer.infer(texts, call, truncate=truncate)
        return Answered(inference.output(TOKEN_EMBEDDINGS), inferencer.manifest.ref, inference.timings)

    async def embed_sparse(
        self, texts: Sequence[str], *, truncate: bool = True, call: Call = ANYONE
    ) -> Answered[list[SparseVector]]:
        """Return for each text the entries of the vocabulary that have a weight."""
        self._check_served(
            Task.SPARSE_EMBEDDING,
            "No served model gives sparse embeddings.",
            "Import one with SPLADE pooling: `tremplin import SOURCE --task sparse-embedding`.",
        )
        inferencer = self.fleet.find(None, Task.SPARSE_EMBEDDING)
        inference = await inferencer.infer(texts, call, truncate=truncate)
        vectors = [sparse_vector(row) for row in inference.output("sparse_embedding")]
        return Answered(vectors, inferencer.manifest.ref, inference.timings)

    async def similarity(
        self,
        source: str,
        others: Sequence[str],
        *,
        model: str | None = None,
        truncate: bool = True,
        call: Call = ANYONE,
    ) -> Answered[list[float]]:
        """Return the cosine of one text with each of the others, in [-1, 1]."""
        if not others:
            raise EmptyText("There is no sentence to compare with; send at least one.")
        answered = await self.embed([source, *others], model=model, truncate=truncate, call=call)
        scores = similarity.cosine(answered.value[0], answered.value[1:])
        return Answered([float(score) for score in scores], answered.version, answered.timings)

    async def search(self, query: str, *, top_k: int = 5, call: Call = ANYONE) -> Answered[list[Hit]]:
        """Return the documents nearest to the query, best first."""
        index = self.index
        if index is None:
            raise UnknownService("There is no document to search. Start the server with --documents FILE.")
        if not 1 <= top_k <= MAX_HITS:
            raise BadInput(f"top_k is {top_k}; ask for 1 to {MAX_HITS} documents.", pointer="/top_k")
        inference = await index.inferencer.infer([query], call)
        hits = search.nearest(inference.stacked("embedding")[0], index.vectors, self.documents, top_k)
        return Answered(hits, index.inferencer.manifest.ref, inference.timings)

    async def classify(
        self, texts: Sequence[str], *, model: str | None = None, truncate: bool = True, call: Call = ANYONE
    ) -> Answered[list[Classification]]:
        """Return calibrated probabilities for each text, and whether the classifier abstains."""
        inferencer = self._classifier(model)
        inference = await inferencer.infer(texts, call, truncate=truncate)
        interface = inferencer.manifest.interface
        results = [
            classification(row, interface.labels, interface.abstain_below)
            for row in inference.output("probabilities")
        ]
        return Answered(results, inferencer.manifest.ref, inference.timings)

    async def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        model: str | None = None,
        top_n: int | None = None,
        raw_scores: bool = False,
        truncate: bool = True,
        call: Call = ANYONE,
    ) -> Answered[list[Ranked]]:
        """Return the documents that answer the query best, best first, each read together with the query.

        Scores are in [0, 1], or the cross-encoder's own when they are asked for raw. A query and a document that
        do not both fit are cut, the longer one first.
        """
        if not documents:
            raise EmptyText("There is no document to rank; send at least one.")
        self._check_served(
            Task.RERANKING,
            "No served model is a re-ranker (a cross-encoder).",
            "Import one with `tremplin import SOURCE` and serve it.",
        )
        inferencer = self.fleet.find(model, Task.RERANKING)
        inferencer.admission.check_rows(len(documents))
        _check_query(inferencer, query)
        inferencer.tokenizer.check_texts(documents)
        pairs = [(query, document) for document in documents]
        inference = await inferencer.infer_pairs(pairs, call, truncate=truncate)
        ranked = ranking(inference.stacked("scores")[:, 0], raw_scores=raw_scores, top_n=top_n)
        return Answered(ranked, inferencer.manifest.ref, inference.timings)

    async def zero_shot(
        self, text: str, labels: Sequence[CandidateLabel], *, model: str | None = None, call: Call = ANYONE
    ) -> Answered[Classification]:
        """Return which of the caller's labels is nearest to the text by its description."""
        if len(labels) < 2:
            raise EmptyText(f"labels has {len(labels)} entries; give at least 2.", pointer="/labels")
        if len(labels) > MAX_CANDIDATE_LABELS:
            raise TooManyInputs(
                f"labels has {len(labels)} entries; give at most {MAX_CANDIDATE_LABELS}.", pointer="/labels"
            )
        answered = await self.embed([text, *(label.text for label in labels)], model=model, call=call)
        result = zero_shot.nearest_label(answered.value[0], answered.value[1:], [label.label for label in labels])
        return Answered(result, answered.version, answered.timings)

    async def explain(
        self, text: str, *, label: str | None = None, model: str | None = None, call: Call = ANYONE
    ) -> Answered[Explanation]:
        """Return which words carried the decision: one batch, each row the text without one word."""
        inferencer = self._classifier(model)
        labels = inferencer.manifest.interface.labels
        if label is not None and label not in labels:
            raise UnknownName(
                f"There is no label {label[:80]!r}; this model knows: {', '.join(labels)}.", pointer="/label"
            )
        parts = explain.spans(text)
        inference = await inferencer.infer([text, *explain.occlusions(text, parts)], call)
        probabilities = inference.stacked("probabilities")
        column = labels.index(label) if label is not None else int(probabilities[0].argmax())
        result = explain.explanation(
            text, parts, labels[column], float(probabilities[0, column]), probabilities[1:, column]
        )
        return Answered(result, inferencer.manifest.ref, inference.timings)

    def _classifier(self, model: str | None) -> Inferencer:
        return self.fleet.find(model, Task.CLASSIFICATION)

    def _token_embedder(self) -> Inferencer:
        """Return the default encoder when its graph gives token embeddings, else the first version whose does."""
        default = self.fleet.defaults.get(Task.EMBEDDING)
        for inferencer in (default, *self.fleet.inferencers):
            if inferencer is not None and TOKEN_EMBEDDINGS in inferencer.engine.current.outputs:
                return inferencer
        raise UnknownService(
            "No served model gives token embeddings. Import an embedding model again, with "
            f"`tremplin import SOURCE --token-embeddings`, and serve that version. {self._served()}"
        )

    def _check_served(self, task: Task, what: str, remedy: str) -> None:
        """Raise UnknownService when no loaded version does a task, with what is served and what to do."""
        if all(inferencer.manifest.interface.task is not task for inferencer in self.fleet.inferencers):
            raise UnknownService(f"{what} {remedy} {self._served()}")

    def _served(self) -> str:
        names = [f"{found.manifest.model} ({found.manifest.interface.task})" for found in self.fleet.inferencers]
        return f"Served: {', '.join(names)}." if names else "Nothing is served."


def _check_query(inferencer: Inferencer, query: str) -> None:
    """Raise what is wrong with a query, under its own name: it is no row of the request."""
    try:
        inferencer.tokenizer.check_texts([query])
    except BadInput as error:
        what = str(error).removeprefix("Text 0")
        raise type(error)(f"The query{what}", pointer="/query") from None
