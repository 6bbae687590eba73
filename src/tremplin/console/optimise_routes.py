"""The routes of optimising: a handler reads the request, asks the desk, and shows where the run stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from tremplin.console.contexts import Page, Problem, Refusal, RunPage, RunPanel
from tremplin.console.desk import KnownRun, RunDesk
from tremplin.console.forms import read_form
from tremplin.console.frame import base_of, language_of
from tremplin.console.optimise import optimise_page, run_panel, runs_panel
from tremplin.console.orders import Refused
from tremplin.console.session import Sessions
from tremplin.console.uploads import received
from tremplin.console.view import ConsoleView
from tremplin.errors import MalformedBody, NotPermitted, TremplinError

COMMAND = "tremplin optimize MODEL --labelled FILE --name NAME"


class Show(Protocol):
    """Renders a page; see ``router.Console``."""

    def __call__(
        self, request: Request, page: Page, *, status: int = 200, command: str = "", has_json: bool = False
    ) -> Response:
        """Return the page as a response."""
        ...


@dataclass(frozen=True)
class OptimiseRoutes:
    """The handlers."""

    view: ConsoleView
    sessions: Sessions
    show: Show
    problem: Callable[[Exception, Request], Problem]

    @property
    def desk(self) -> RunDesk:
        """Where runs are begun and stopped."""
        return self.view.runs

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [
            Route("/optimise", self.runs, methods=["GET"]),
            Route("/optimise", self.start, methods=["POST"]),
            Route("/optimise/{run}", self.run, methods=["GET"]),
            Route("/optimise/{run}", self.act, methods=["POST"]),
        ]

    # -- the runs ----------------------------------------------------------------------------------

    async def runs(self, request: Request) -> Response:
        """Show all runs; the list alone for htmx."""
        if "hx-request" in request.headers:
            panel = await run_in_threadpool(runs_panel, self.desk, base_of(request))
            return self.show(request, panel)
        return await self._show_runs(request)

    async def start(self, request: Request) -> Response:
        """Begin the run that the form asks for and go to its page, or show the form again with what to correct."""
        self._check_operator(request)
        values: Mapping[str, str] = {}
        try:
            async with received(request, max_bytes=self.desk.max_upload_bytes) as form:
                values = form.fields
                name = await run_in_threadpool(self.desk.start, form)
        except Refused as refused:
            return await self._show_runs(request, values, refused.refusal)
        return RedirectResponse(f"{base_of(request)}/optimise/{name}", 303)

    async def _show_runs(
        self, request: Request, values: Mapping[str, str] | None = None, refusal: Refusal | None = None
    ) -> Response:
        page = await run_in_threadpool(
            optimise_page,
            self.desk,
            base_of(request),
            may_start=self._is_operator(request),
            values=values,
            refusal=refusal,
        )
        status = 200 if refusal is None else 422
        return self.show(request, page, status=status, command=COMMAND, has_json=True)

    # -- one run -----------------------------------------------------------------------------------

    async def run(self, request: Request) -> Response:
        """Show a run; what changes alone for htmx."""
        if "hx-request" not in request.headers:
            return await self._show_run(request, self._panel)
        try:
            return self.show(request, await run_in_threadpool(self._panel, request))
        except Exception:  # asked for as a whole page, the same error gets a page of its own
            return Response(status_code=200, headers={"HX-Refresh": "true"})

    async def act(self, request: Request) -> Response:
        """Stop a run, go on with it or publish from it; then its page, or why it was not done."""
        self._check_operator(request)
        form = await read_form(request)
        known = await run_in_threadpool(self._known, request)
        try:
            await run_in_threadpool(self._do, known, form)
        except Refused as refused:
            refusal = refused.refusal
            return await self._show_run(request, lambda r: self._panel(r, refusal=refusal), status=409)
        except TremplinError as error:
            problem = self.problem(error, request)
            return await self._show_run(request, lambda r: self._panel(r, problem=problem), status=problem.status)
        return RedirectResponse(f"{base_of(request)}/optimise/{known.name}", 303)

    def _do(self, known: KnownRun, form: Mapping[str, str]) -> None:
        match form.get("do"):
            case "stop":
                self.desk.stop(known)
            case "go-on":
                self.desk.go_on(known)
            case "publish":
                self.desk.publish(known, form.get("version", ""))
            case _:
                raise MalformedBody("The form does not say what to do: stop, go-on or publish.")

    async def _show_run(
        self, request: Request, panel_of: Callable[[Request], RunPanel], *, status: int = 200
    ) -> Response:
        panel = await run_in_threadpool(panel_of, request)
        return self.show(request, RunPage(panel), status=status, command=panel.command, has_json=True)

    def _panel(
        self, request: Request, *, refusal: Refusal | None = None, problem: Problem | None = None
    ) -> RunPanel:
        return run_panel(
            self.desk,
            self._known(request),
            self.view.live(),
            base_of(request),
            language_of(request),
            may_start=self._is_operator(request),
            refusal=refusal,
            problem=problem,
        )

    def _known(self, request: Request) -> KnownRun:
        known = self.desk.find(request.path_params["run"])
        if known is None:
            raise HTTPException(404)
        return known

    # -- who may -----------------------------------------------------------------------------------

    def _is_operator(self, request: Request) -> bool:
        return self.view.is_open or self.sessions.is_operator(request)

    def _check_operator(self, request: Request) -> None:
        if not self._is_operator(request):
            raise NotPermitted(
                "Runs are started and stopped by who operates the server. Sign in with an operator's key; "
                "`tremplin keys create --operator` makes one."
            )
