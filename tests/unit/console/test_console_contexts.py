"""What is rendered is what is declared: no field without a use, no use without a field."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from console_standin import LIVE, StandInServices
from run_standin import held, write_run, write_study
from starlette.requests import Request

from tremplin.console import contexts
from tremplin.console.contexts import (
    AnswerPanel,
    EnteredPage,
    Page,
    Problem,
    ProblemPage,
    Refusal,
    RunPage,
    SignInPage,
)
from tremplin.console.frame import Framer
from tremplin.console.i18n import language
from tremplin.console.models import model_page, models_page, version_page
from tremplin.console.optimise import optimise_page, run_panel
from tremplin.console.playground import SERVICES, Playground, examples, form_of
from tremplin.console.render import Renderer
from tremplin.console.session import Sessions
from tremplin.console.view import ConsoleView
from tremplin.optimize.recipes.run_folder import RunState

# Declared for the JSON of a page, or used by the response around it.
NOT_DRAWN = {
    ("Problem", "status"),  # the response's
    ("ExplainResult", "label"),  # its name is drawn
    ("Example", "form"),  # drawn as form_json
    ("ModelRow", "newest"),  # drawn where nothing serves
    ("AnswerPanel", "service"),  # says in the JSON what was asked
}

DECLARED = {
    name: kind
    for name, kind in inspect.getmembers(contexts, inspect.isclass)
    if dataclasses.is_dataclass(kind) and kind.__module__ == contexts.__name__
}

Uses = set[tuple[str, str]]


class Watched:
    """Stands for a context and notes which fields are read."""

    def __init__(self, value: object, uses: Uses) -> None:
        self._value = value
        self._uses = uses

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._value, name)
        self._uses.add((type(self._value).__name__, name))
        return watched(value, self._uses)


def watched(value: Any, uses: Uses) -> Any:
    if type(value).__name__ in DECLARED:
        return Watched(value, uses)
    if isinstance(value, tuple):
        return tuple(watched(item, uses) for item in value)
    return value


def all_pages(view: ConsoleView) -> Iterator[Page]:
    t = language("en")
    problem = Problem("EmptyText", 422, "The field is empty.", "0" * 16, 2.0)
    yield SignInPage("/console/models", "key")
    yield EnteredPage("/console/models")
    yield ProblemPage(problem, "/console/playground")
    playground = Playground(view)
    for service in SERVICES:
        form = form_of(service, examples(service, "en")[0])
        answer = asyncio.run(playground.ask(service, form, "en"))
        for outcome in (answer, problem, None):
            panel = playground.panel(service, form, "http://localhost", outcome=outcome)
            yield playground.page(service, form, panel, lang="en", base="/console")
    yield models_page(view.registry, view.live(), "/console")
    for model in view.registry.models():
        yield model_page(view.registry, view.live(), model, "/console", t)
        for manifest in view.registry.versions(model):
            yield version_page(view.registry, view.live(), manifest, "/console", t)
    yield from all_run_pages(view, problem)


def all_run_pages(view: ConsoleView, problem: Problem) -> Iterator[Page]:
    desk, refusal = view.runs, Refusal("unusable", "labelled", "line 2: empty", {"name": "intents"})
    yield optimise_page(desk, "/console", may_start=False)
    yield optimise_page(desk, "/console", may_start=True)
    refs = ("support-desk@1-fp32", "support-desk@2-int8", "support-desk@3-small-int8")
    write_study(write_run(desk.runs, "done", RunState.DONE, published=refs))
    write_run(desk.runs, "failed", RunState.FAILED, error="It diverged.")
    write_run(desk.runs, "typed", RunState.RUNNING, is_ours=False)
    with held(write_run(desk.runs, "working", RunState.RUNNING, seconds_left=60.0)):
        yield optimise_page(desk, "/console", may_start=True, values={"name": "intents"}, refusal=refusal)
        for known in desk.all():
            panel = run_panel(desk, known, view.live(), "/console", language("en"), may_start=True)
            yield RunPage(dataclasses.replace(panel, refusal=refusal, problem=problem, can_stop=True))
    known = desk.find("done")
    assert known is not None
    yield RunPage(run_panel(desk, known, view.live(), "/console", language("en"), may_start=True))


@pytest.fixture
def uses(view: ConsoleView, tmp_path: Path) -> Uses:
    # A second classifier, so that the choice of a version is drawn.
    view = dataclasses.replace(view, live=lambda: (*LIVE, dataclasses.replace(LIVE[1], ref="support-desk@1-fp32")))
    view = dataclasses.replace(view, runs=dataclasses.replace(view.runs, runs=tmp_path / "runs"))
    sessions = Sessions(view.session_secret)
    cookie = f"{sessions.cookie_name}={sessions.issue()}".encode()
    request = Request(
        {
            "type": "http", "method": "GET", "path": "/console/models", "root_path": "/console",
            "query_string": b"", "headers": [(b"cookie", cookie)],
        }
    )  # fmt: skip
    framer = Framer(view, sessions, {"app.js": "a.js", "app.css": "a.css", "icon.svg": "i.svg"})
    frame = framer.frame(request, command="tremplin report", has_json=True)
    seen: Uses = set()
    renderer = Renderer()
    for page in all_pages(view):
        template = renderer.template(type(page))
        template.render(page=watched(page, seen), frame=watched(frame, seen), t=language("en"))
    return seen


def test_every_declared_field_is_used(uses: Uses) -> None:
    declared = {
        (name, field.name)
        for name, kind in DECLARED.items()
        for field in dataclasses.fields(kind)
        if field.name != "kind" or name == "Problem"
    }
    assert declared - uses == NOT_DRAWN


@pytest.mark.parametrize("kind", DECLARED.values(), ids=DECLARED)
def test_contexts_are_frozen_and_documented(kind: type) -> None:
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{kind.__name__}(")


def test_the_panel_is_a_page_of_its_own(view: ConsoleView) -> None:
    panel = Playground(view).panel("classify", {"text": "a"}, "http://localhost", outcome=None)
    assert isinstance(panel, AnswerPanel)


def test_stand_in_answers_every_service(view: ConsoleView) -> None:
    assert {name.replace("-", "_") for name in SERVICES} <= set(dir(StandInServices))
