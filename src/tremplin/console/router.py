"""The console's routes. A handler reads the request, asks one function, and renders its context."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from tremplin.console import models
from tremplin.console.contexts import (
    Answer,
    EnteredPage,
    Page,
    Problem,
    ProblemPage,
    ServiceName,
    SignInPage,
)
from tremplin.console.forms import read_form
from tremplin.console.frame import Framer, base_of, language_of, remember_choices
from tremplin.console.gate import ErrorPages, Gate, log_unexpected
from tremplin.console.optimise_routes import OptimiseRoutes
from tremplin.console.playground import Form, Playground, examples, form_of, service_named
from tremplin.console.problems import problem_of
from tremplin.console.render import Renderer, built_assets, json_of
from tremplin.console.security import SecurityHeaders
from tremplin.console.session import Sessions, local_target
from tremplin.console.view import ConsoleView, LiveVersion
from tremplin.registry.store import Registry

STATIC = Path(__file__).parent / "static"

Found = TypeVar("Found")


def console_routes(view: ConsoleView) -> list[BaseRoute]:
    """Return the console under ``/console``, and ``/`` that leads to it.

    Raises StartFailed when the console's assets were never built.
    """
    sessions = Sessions(view.session_secret)
    console = Console(view, sessions, Framer(view, sessions, built_assets()))
    inside: list[BaseRoute] = [
        Route("/", _to("/playground")),
        Route("/sign-in", console.sign_in_form, methods=["GET"]),
        Route("/sign-in", console.sign_in, methods=["POST"]),
        Route("/sign-out", console.sign_out, methods=["POST"]),
        Route("/enter", console.enter, methods=["GET"]),
        Route("/playground", console.first_service),
        Route("/playground/{service}", console.open_service, methods=["GET"]),
        Route("/playground/{service}", console.ask, methods=["POST"]),
        Route("/models", console.models),
        Route("/models/{model}", console.model),
        Route("/models/{model}/{version}", console.version),
        *OptimiseRoutes(view, sessions, console.show, console.problem).routes(),
        Mount("/static", Assets(directory=STATIC)),
        Route("/{path:path}", _not_found),
    ]
    middleware = [
        Middleware(SecurityHeaders),
        Middleware(ErrorPages, show=console.show_error),
        Middleware(Gate, sessions=sessions, check_key=view.check_key, is_open=view.is_open),
    ]
    return [
        Route("/", _to("/console/playground")),
        Route("/console", _to("/console/playground")),
        Mount("/console", routes=inside, middleware=middleware),
    ]


@dataclass(frozen=True)
class Console:
    """The handlers."""

    view: ConsoleView
    sessions: Sessions
    framer: Framer
    renderer: Renderer = field(default_factory=Renderer)
    playground: Playground = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "playground", Playground(self.view))

    # -- signing in --------------------------------------------------------------------------------

    async def sign_in_form(self, request: Request) -> Response:
        """Show the form, or go on when there is a session already."""
        target = local_target(request.query_params.get("next", ""), base_of(request))
        if self.view.is_open or self.sessions.is_signed_in(request):
            return RedirectResponse(target, 303)
        return self.show(request, SignInPage(target, ""))

    async def sign_in(self, request: Request) -> Response:
        """Check the key and open a session."""
        form = await read_form(request)
        target = local_target(form.get("next", ""), base_of(request))
        key = form.get("key", "").strip()
        if not self.view.check_key(key):
            return self.show(request, SignInPage(target, "key"), status=403)
        response = RedirectResponse(target, 303)
        self.sessions.open_on(response, request, is_operator=self.view.is_operator_key(key))
        return response

    async def sign_out(self, request: Request) -> Response:
        """Close the session."""
        response = RedirectResponse(f"{base_of(request)}/sign-in", 303)
        self.sessions.close_on(response, request)
        return response

    async def enter(self, request: Request) -> Response:
        """Redeem a one-time link.

        The answer is a page that moves on by itself, not a redirect: after a redirect that began on another
        site (a web mail, a chat) the browser would hold the new SameSite=Strict cookie back.
        """
        target = f"{base_of(request)}/playground"
        if request.method == "HEAD":  # link previews look before people do; the ticket must survive them
            return Response(status_code=204)
        if self.view.is_open or self.sessions.is_signed_in(request):
            return RedirectResponse(target, 303)
        if not self.view.redeem_ticket(request.query_params.get("ticket", "")):
            return self.show(request, SignInPage(target, "ticket"), status=403)
        response = self.show(request, EnteredPage(target))
        # The link was printed where the server was started: who has it operates it.
        self.sessions.open_on(response, request, is_operator=True)
        return response

    # -- playground --------------------------------------------------------------------------------

    async def first_service(self, request: Request) -> Response:
        """Go to the service most likely to answer."""
        return RedirectResponse(f"{base_of(request)}/playground/{self.playground.first_service()}", 303)

    async def open_service(self, request: Request) -> Response:
        """Show a service with an example, answered."""
        service = service_named(request.path_params["service"])
        lang = language_of(request).code
        ready_made = examples(service, lang)
        asked = request.query_params.get("example", "")
        number = int(asked) if asked.isdecimal() and len(asked) < 4 else 1
        form = form_of(service, ready_made[(number - 1) % len(ready_made)])
        outcome: Answer | Problem | None
        if asked:
            outcome = await self._outcome(request, service, form)
        else:
            outcome = await self._unasked(request, service, form)
        return self._show_playground(request, service, form, outcome)

    async def ask(self, request: Request) -> Response:
        """Answer the form: the panel alone for htmx, the whole page otherwise."""
        service = service_named(request.path_params["service"])
        form = form_of(service, {})
        try:
            form = form_of(service, await read_form(request))
            outcome = await self._outcome(request, service, form)
        except Exception as error:
            outcome = self.problem(error, request)
        return self._show_playground(request, service, form, outcome)

    async def _outcome(self, request: Request, service: ServiceName, form: Form) -> Answer | Problem:
        try:
            return await self.playground.ask(service, form, language_of(request).code)
        except Exception as error:
            return self.problem(error, request)

    async def _unasked(self, request: Request, service: ServiceName, form: Form) -> Answer | Problem | None:
        try:
            return await self.playground.ask_unasked(service, form, language_of(request).code)
        except Exception as error:
            return self.problem(error, request)

    def _show_playground(
        self, request: Request, service: ServiceName, form: Form, outcome: Answer | Problem | None
    ) -> Response:
        origin = f"{request.url.scheme}://{request.url.netloc}"
        panel = self.playground.panel(service, form, origin, outcome=outcome)
        was_asked = request.method == "POST" or "example" in request.query_params
        status = outcome.status if isinstance(outcome, Problem) and was_asked else 200
        if "hx-request" in request.headers:
            return self.show(request, panel, status=status)
        lang, base = language_of(request).code, base_of(request)
        page = self.playground.page(service, form, panel, lang=lang, base=base)
        return self.show(request, page, status=status, has_json=True)

    # -- models ------------------------------------------------------------------------------------

    async def models(self, request: Request) -> Response:
        """Show every model."""
        page = await self._read(lambda registry, live: models.models_page(registry, live, base_of(request)))
        return self.show(request, page, command="tremplin report", has_json=True)

    async def model(self, request: Request) -> Response:
        """Show a model's versions side by side."""
        name, base, language = request.path_params["model"], base_of(request), language_of(request)
        page = await self._read(lambda registry, live: models.model_page(registry, live, name, base, language))
        return self.show(request, page, command=f"tremplin report {name}", has_json=True)

    async def version(self, request: Request) -> Response:
        """Show a version's passport."""
        name, version = request.path_params["model"], request.path_params["version"]
        base, language = base_of(request), language_of(request)
        page = await self._read(
            lambda registry, live: models.version_page(registry, live, registry.get(name, version), base, language)
        )
        return self.show(request, page, command=f"tremplin report {name}@{version}", has_json=True)

    async def _read(self, read: Callable[[Registry, list[LiveVersion]], Found]) -> Found:
        """Return what ``read`` finds in the registry; files are read outside the event loop."""
        return await run_in_threadpool(read, self.view.registry, list(self.view.live()))

    # -- showing -----------------------------------------------------------------------------------

    def show_error(self, request: Request, error: Exception) -> Response:
        """Return the page of an error."""
        problem = self.problem(error, request)
        page = ProblemPage(problem, f"{base_of(request)}/playground")
        response = self.show(request, page, status=problem.status)
        if problem.retry_after_s is not None:
            response.headers["Retry-After"] = str(max(1, round(problem.retry_after_s)))
        return response

    def problem(self, error: Exception, request: Request) -> Problem:
        """Return how an error is shown; one that nobody planned is logged."""
        problem = problem_of(error, request)
        log_unexpected(error, problem.request_id)
        return problem

    def show(
        self, request: Request, page: Page, *, status: int = 200, command: str = "", has_json: bool = False
    ) -> Response:
        """Return a page or a fragment as HTML, or as JSON when that was asked for."""
        if request.query_params.get("format") == "json":
            return json_of(page, status=status)
        frame = self.framer.frame(request, command=command, has_json=has_json)
        response = self.renderer.html(page, frame, language_of(request), status=status)
        remember_choices(response, request)
        return response


class Assets(StaticFiles):
    """Built files; their names hold the hash of their content, so browsers may keep them for good."""

    def file_response(self, full_path: str | os.PathLike[str], *args: object, **kwargs: object) -> Response:
        """Return the file, to be kept."""
        response = super().file_response(full_path, *args, **kwargs)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


def _to(path: str) -> Callable[[Request], Response]:
    def redirect(request: Request) -> Response:
        return RedirectResponse(base_of(request) + path, 307)

    return redirect


def _not_found(request: Request) -> Response:
    raise HTTPException(404)
