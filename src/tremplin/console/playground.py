"""The playground: a form in, a service asked, a picture of the answer out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TypeVar, cast, get_args

import numpy as np
from numpy.typing import NDArray

from tremplin.console.contexts import (
    Answer,
    AnswerPanel,
    ClassifyResult,
    EmbedResult,
    Example,
    ExplainResult,
    FoundDocument,
    LabelScore,
    PlaygroundPage,
    Problem,
    Result,
    SearchResult,
    ServiceName,
    ServiceTab,
    SimilarityResult,
    TextPiece,
    TimeSplit,
)
from tremplin.console.snippets import request_of, snippets
from tremplin.console.view import ConsoleView
from tremplin.errors import EmptyText, RegistryError, UnknownService
from tremplin.registry.task import Task
from tremplin.serve.services import Answered
from tremplin.tasks.classify import Classification
from tremplin.tasks.explain import Explanation, WordWeight
from tremplin.tasks.search import Hit
from tremplin.tasks.zero_shot import CandidateLabel

SERVICES: tuple[ServiceName, ...] = get_args(ServiceName)

FIELDS: Mapping[ServiceName, tuple[str, ...]] = {
    "classify": ("text",),
    "embed": ("text",),
    "similarity": ("a", "b"),
    "search": ("query",),
    "zero-shot": ("text", "labels"),
    "explain": ("text",),
}
CLASSIFIES: frozenset[ServiceName] = frozenset({"classify", "explain"})

# An opened page answers its first example at once, unless the server is too busy to do it unasked.
UNASKED_BUDGET_S = 0.25

FIRST_COMPONENTS = 8

# Rules of thumb for sentence encoders, said as such on the page; the number is what counts.
CLOSE_FROM = 0.7
RELATED_FROM = 0.4

# Below this the word that weighs most is not worth a full mark: nothing in the text stands out.
FULL_MARK_WEIGHT = 0.1
MARK_LEVELS = 4

Form = Mapping[str, str]
Value = TypeVar("Value")


class Playground:
    """Asks the services what a form asks, and says how to show it."""

    def __init__(self, view: ConsoleView) -> None:
        self._view = view
        self._thresholds: dict[str, float | None] = {}

    # -- pages -------------------------------------------------------------------------------------

    def first_service(self) -> ServiceName:
        """Return the service to open with: classification where a classifier serves."""
        served = {version.task for version in self._view.live()}
        return "embed" if served and Task.CLASSIFICATION not in served else "classify"

    def page(
        self, service: ServiceName, form: Form, panel: AnswerPanel, *, lang: str, base: str
    ) -> PlaygroundPage:
        """Return the page of one service with a form filled in."""
        return PlaygroundPage(
            service=service,
            tabs=tuple(ServiceTab(name, f"{base}/playground/{name}", name == service) for name in SERVICES),
            examples=_with_links(examples(service, lang), form, f"{base}/playground/{service}"),
            form=form,
            versions=self._versions(service),
            panel=panel,
        )

    def panel(
        self, service: ServiceName, form: Form, origin: str, *, outcome: Answer | Problem | None
    ) -> AnswerPanel:
        """Return the answer's side of the page."""
        route, body = request_of(service, form, candidate_labels(form.get("labels", "")))
        return AnswerPanel(
            service=service,
            answer=outcome if isinstance(outcome, Answer) else None,
            problem=outcome if isinstance(outcome, Problem) else None,
            snippets=snippets(origin, route, body),
        )

    def _versions(self, service: ServiceName) -> tuple[str, ...]:
        if service == "search":  # its documents are embedded by one version only
            return ()
        task = Task.CLASSIFICATION if service in CLASSIFIES else Task.EMBEDDING
        return tuple(dict.fromkeys(version.ref for version in self._view.live() if version.task == task))

    # -- asking ------------------------------------------------------------------------------------

    async def ask_unasked(self, service: ServiceName, form: Form, lang: str) -> Answer | None:
        """Return the answer to a form nobody sent, or None when it would make the page wait."""
        if self._view.state() != "ready":
            return None
        try:
            return await asyncio.wait_for(self.ask(service, form, lang), UNASKED_BUDGET_S)
        except TimeoutError:
            return None

    async def ask(self, service: ServiceName, form: Form, lang: str) -> Answer:
        """Return the service's answer; raises the errors of the tree."""
        for name in FIELDS[service]:
            if not form.get(name, "").strip():
                raise EmptyText(f"The field {name!r} is empty; write some text in it.", pointer=f"/{name}")
        services, text = self._view.services, form.get("text", "")
        model = form.get("version") or None
        match service:
            case "classify":
                classified = await services.classify([text], model=model)
                threshold = await self._abstain_below(classified.version)
                return _answer(classified, _classified(classified.value[0], threshold, text, lang))
            case "embed":
                embedded = await services.embed([text], model=model)
                return _answer(embedded, _embedded(embedded.value[0]))
            case "similarity":
                compared = await services.similarity(form["a"], [form["b"]], model=model)
                return _answer(compared, _compared(compared.value[0]))
            case "search":
                found = await services.search(form["query"], top_k=5)
                return _answer(found, _found(found.value))
            case "zero-shot":
                labels = candidate_labels(form["labels"])
                sorted_out = await services.zero_shot(text, labels, model=model)
                return _answer(sorted_out, _zero_shot(sorted_out.value, text))
            case "explain":
                explained = await services.explain(text, model=model)
                return _answer(explained, _explained(text, explained.value, lang))

    async def _abstain_below(self, ref: str) -> float | None:
        """Return the probability below which this version abstains; versions never change, so it is kept."""
        if ref not in self._thresholds:
            try:
                manifest = await asyncio.to_thread(self._view.registry.resolve, ref)
            except RegistryError:  # the answer stands without its threshold
                return None
            self._thresholds[ref] = manifest.interface.abstain_below
        return self._thresholds[ref]


def service_named(name: str) -> ServiceName:
    """Return the service of this name; raises UnknownService."""
    if name not in SERVICES:
        raise UnknownService(f"There is no service {name[:40]!r}; there are: {', '.join(SERVICES)}.")
    return name


def form_of(service: ServiceName, sent: Form) -> dict[str, str]:
    """Return the fields this service knows, with line ends as Python writes them."""
    return {name: sent.get(name, "").replace("\r\n", "\n") for name in (*FIELDS[service], "version")}


def candidate_labels(text: str) -> list[CandidateLabel]:
    """Return the labels written one a line, each as ``label`` or ``label: description``."""
    parts = (line.partition(":") for line in text.splitlines() if line.strip())
    return [CandidateLabel(label.strip(), description.strip()) for label, _, description in parts]


# -- examples ----------------------------------------------------------------------------------------


@cache
def examples(service: ServiceName, lang: str) -> tuple[Form, ...]:
    """Return the ready-made forms of a service in one language."""
    text = files("tremplin").joinpath("data", "examples.json").read_text(encoding="utf-8")
    return tuple(_example_form(service, item) for item in json.loads(text)[service][lang])


def _example_form(service: ServiceName, item: object) -> dict[str, str]:
    match item:
        case str():
            return {FIELDS[service][0]: item}
        case {"a": str(a), "b": str(b)}:
            return {"a": a, "b": b}
        case {"text": str(text), "labels": list(labels)}:
            lines = (f"{label['label']}: {label['description']}" for label in labels)
            return {"text": text, "labels": "\n".join(lines)}
    raise ValueError(f"data/examples.json: an example of {service} has an unknown shape")


def _with_links(forms: Sequence[Form], current: Form, href: str) -> tuple[Example, ...]:
    return tuple(
        Example(
            title=next(iter(form.values())),
            href=f"{href}?example={number}",
            form=form,
            form_json=json.dumps(form, ensure_ascii=False),
            is_current=all(current.get(name) == value for name, value in form.items()),
        )
        for number, form in enumerate(forms, start=1)
    )


# -- what an answer looks like ------------------------------------------------------------------------


def _answer(answered: Answered[Value], result: Result) -> Answer:
    timings = answered.timings
    split = TimeSplit(timings.tokenize_ms, timings.queue_ms, timings.compute_ms, timings.tokens, timings.cached)
    return Answer(result, answered.version, split)


def _classified(value: Classification, threshold: float | None, text: str, lang: str) -> ClassifyResult:
    scores = tuple(
        LabelScore(score.label, label_name(score.label, lang), score.probability) for score in value.scores
    )
    return ClassifyResult(value.label, scores, threshold, is_calibrated=True, text=text)


def _zero_shot(value: Classification, text: str) -> ClassifyResult:
    scores = tuple(LabelScore(score.label, score.label, score.probability) for score in value.scores)
    return ClassifyResult(value.label, scores, None, is_calibrated=False, text=text)


def _embedded(vector: NDArray[np.float32]) -> EmbedResult:
    return EmbedResult(
        dimensions=len(vector),
        norm=float(np.linalg.norm(vector)),
        first=tuple(float(component) for component in vector[:FIRST_COMPONENTS]),
        strip=_strip(vector),
    )


def _strip(vector: NDArray[np.float32]) -> tuple[str, str]:
    """Draw each component as a tick from the middle line of a box 20 high, upwards when positive."""
    heights = 9.5 * vector / max(float(np.abs(vector).max()), 1e-12)
    ticks = [f"M{place + 0.5} 10V{10 - height:.1f}" for place, height in enumerate(heights)]
    positive = "".join(tick for tick, height in zip(ticks, heights, strict=True) if height >= 0)
    negative = "".join(tick for tick, height in zip(ticks, heights, strict=True) if height < 0)
    return positive, negative


def _compared(cosine: float) -> SimilarityResult:
    if cosine >= CLOSE_FROM:
        return SimilarityResult(cosine, "close")
    return SimilarityResult(cosine, "related" if cosine >= RELATED_FROM else "distant")


def _found(hits: Sequence[Hit]) -> SearchResult:
    return SearchResult(
        tuple(
            FoundDocument(
                rank, hit.document.id, hit.document.title, hit.document.text, hit.document.lang, hit.score
            )
            for rank, hit in enumerate(hits, start=1)
        )
    )


def _explained(text: str, value: Explanation, lang: str) -> ExplainResult:
    strongest_weight = max((abs(word.weight) for word in value.words), default=0.0)
    scale = max(strongest_weight, FULL_MARK_WEIGHT)
    pieces: list[TextPiece] = []
    place = 0
    for word in value.words:
        if word.start > place:
            pieces.append(TextPiece(text[place : word.start], None, 0))
        pieces.append(TextPiece(word.text, word.weight, _level(word, scale)))
        place = word.end
    if place < len(text):
        pieces.append(TextPiece(text[place:], None, 0))
    marked = [piece for piece in pieces if piece.level]
    return ExplainResult(
        label=value.label,
        name=label_name(value.label, lang),
        probability=value.probability,
        pieces=tuple(pieces),
        strongest=tuple(sorted(marked, key=lambda piece: -abs(piece.weight or 0.0))),
    )


def _level(word: WordWeight, scale: float) -> int:
    return round(MARK_LEVELS * word.weight / scale)


def label_name(label: str, lang: str) -> str:
    """Return a label of the bundled classifier in the reader's language, any other one as it is."""
    return _label_names().get(label, {}).get(lang, label)


@cache
def _label_names() -> dict[str, dict[str, str]]:
    text = files("tremplin").joinpath("data", "support_desk", "labels.json").read_text(encoding="utf-8")
    entries = cast(list[dict[str, object]], json.loads(text))
    return {str(entry["label"]): cast(dict[str, str], entry["name"]) for entry in entries}
