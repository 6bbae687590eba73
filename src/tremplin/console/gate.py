"""What stands before every page: the session, the origin of forms, and pages for errors."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tremplin.console.frame import base_of
from tremplin.console.session import Sessions, bearer_key, is_same_origin
from tremplin.errors import InvalidKey, MissingKey, NotPermitted, TremplinError

OPEN_PATHS = ("/sign-in", "/enter", "/static/")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

log = logging.getLogger("tremplin.console")


@dataclass(frozen=True)
class Gate:
    """Pure ASGI: lets a request through, sends it to the sign-in page, or refuses it."""

    app: ASGIApp
    sessions: Sessions
    check_key: Callable[[str], bool]
    is_open: bool = False
    """Whether nobody needs a session."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a stranger here; hand anybody else on."""
        if scope["type"] == "http":
            request = Request(scope, receive)
            if request.method not in SAFE_METHODS and not is_same_origin(request):
                raise NotPermitted(
                    "This form was not sent from a page of this console. "
                    "Open the page here and send the form again."
                )
            response = None if self._may_pass(request) else _to_sign_in(request)
            if response is not None:
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _may_pass(self, request: Request) -> bool:
        path = request.url.path.removeprefix(base_of(request))
        if self.is_open or path.startswith(OPEN_PATHS) or self.sessions.is_signed_in(request):
            return True
        key = bearer_key(request)
        if key is not None and request.method in SAFE_METHODS:
            if self.check_key(key):
                return True
            raise InvalidKey("The API key is unknown or revoked; `tremplin keys` lists and makes keys.")
        if request.query_params.get("format") == "json":
            raise MissingKey("Send an API key: `Authorization: Bearer tk_...`.")
        return False


def _to_sign_in(request: Request) -> Response:
    base = base_of(request)
    target = request.url.path if request.method in SAFE_METHODS else f"{base}/playground"
    address = f"{base}/sign-in?next={quote(target, safe='/')}"
    if "hx-request" in request.headers:
        # fetch would follow a redirect and put the sign-in page where the answer belongs.
        return Response(status_code=401, headers={"HX-Redirect": address})
    return RedirectResponse(address, 303)


@dataclass(frozen=True)
class ErrorPages:
    """Pure ASGI: an error becomes a page in the frame, not the gateway's problem document."""

    app: ASGIApp
    show: Callable[[Request, Exception], Response]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on and show what it raises."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # Routes hand errors to the handlers of the outermost application first; here there are none of those.
        scope = {**scope, "starlette.exception_handlers": ({}, {})}
        has_started = False

        async def watched_send(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self.app(scope, receive, watched_send)
        except Exception as error:
            if has_started:
                raise
            request = Request(scope, receive)
            response = self.show(request, error)
            await response(scope, receive, send)


def log_unexpected(error: Exception, request_id: str) -> None:
    """Write where an unplanned error came from. Its message may hold a user's text, so it is left out."""
    if isinstance(error, TremplinError | HTTPException):
        return
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    places = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))
    log.error("console error %s, request %s, at %s", type(error).__name__, request_id, places)
