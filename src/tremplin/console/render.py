"""From a context to a response: HTML by its template, or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files

import jinja2
import orjson
from starlette.responses import HTMLResponse, Response

from tremplin.console import pictures, studies
from tremplin.console.contexts import (
    AnswerPanel,
    EnteredPage,
    Frame,
    ModelPage,
    ModelsPage,
    OptimisePage,
    Page,
    PlaygroundPage,
    ProblemPage,
    RunPage,
    RunPanel,
    RunsPanel,
    SignInPage,
    VersionPage,
    as_json,
)
from tremplin.console.i18n import Language
from tremplin.errors import StartFailed

TEMPLATES: Mapping[type, str] = {
    PlaygroundPage: "playground.html",
    AnswerPanel: "answer.html",
    ModelsPage: "models.html",
    ModelPage: "model.html",
    VersionPage: "version.html",
    OptimisePage: "optimise.html",
    RunsPanel: "runs.html",
    RunPage: "run.html",
    RunPanel: "run_panel.html",
    SignInPage: "sign_in.html",
    EnteredPage: "entered.html",
    ProblemPage: "problem.html",
}


def environment() -> jinja2.Environment:
    """Return the templates: everything is escaped, and a name a context lacks is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("tremplin.console"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )


class Renderer:
    """Renders contexts."""

    def __init__(self) -> None:
        self._environment = environment()
        self._environment.globals.update(
            metric_label=pictures.metric_label,
            metric_text=pictures.metric_text,
            interval_text=pictures.interval_text,
            bound_text=pictures.bound_text,
            difference=pictures.difference,
            finding_text=studies.finding_text,
            finding_why=studies.finding_why,
            points_text=studies.points_text,
            upper_text=studies.upper_text,
            share_text=studies.share_text,
            times_text=studies.times_text,
            rounds_text=studies.rounds_text,
        )

    def text(self, page: Page, frame: Frame, t: Language) -> str:
        """Return the HTML of a page or fragment."""
        return self.template(type(page)).render(page=page, frame=frame, t=t)

    def template(self, context: type) -> jinja2.Template:
        """Return the template that draws a kind of context."""
        return self._environment.get_template(TEMPLATES[context])

    def html(self, page: Page, frame: Frame, t: Language, *, status: int = 200) -> Response:
        """Return a page or fragment as a response."""
        return HTMLResponse(self.text(page, frame, t), status, {"Content-Language": t.code})


def json_of(page: Page, *, status: int = 200) -> Response:
    """Return a context as JSON."""
    payload = orjson.dumps(as_json(page), option=orjson.OPT_INDENT_2)
    return Response(payload, status, media_type="application/json")


def built_assets() -> Mapping[str, str]:
    """Return source name to built file name; raises StartFailed when the assets were never built."""
    try:
        text = files("tremplin.console").joinpath("static", "manifest.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StartFailed(
            "The console's scripts and styles are not built. "
            "In a checkout, run `pip install -e .`, which builds them."
        ) from None
    built: dict[str, str] = json.loads(text)["files"]
    return built
