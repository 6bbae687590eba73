"""Who is signed in: a signed cookie, and the proof that a form was sent from our own pages."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

LIFETIME_S = 12 * 3600
OPERATOR, READER = "operator", "reader"
MIN_SECRET_BYTES = 16


class Sessions:
    """Writes and reads the session cookie; nothing is kept on the server."""

    def __init__(self, secret: bytes, clock: Callable[[], float] = time.time) -> None:
        if len(secret) < MIN_SECRET_BYTES:
            raise ValueError(f"the session secret has {len(secret)} bytes; give at least {MIN_SECRET_BYTES}")
        self._secret = hashlib.sha256(b"tremplin console session\0" + secret).digest()
        self._clock = clock
        # Browsers do not tell ports apart: two servers on one host would overwrite each other's cookie.
        self.cookie_name = f"tremplin_session_{self._sign('name')[:8]}"

    def issue(self, *, is_operator: bool = False) -> str:
        """Return the cookie's value for a new session."""
        expires = int(self._clock()) + LIFETIME_S
        payload = f"{expires}.{OPERATOR if is_operator else READER}.{secrets.token_urlsafe(9)}"
        return f"{payload}.{self._sign(payload)}"

    def is_valid(self, value: str | None) -> bool:
        """Return whether a cookie's value was issued here and has not expired."""
        payload, _, signature = (value or "").rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(payload).encode()):
            return False
        expires = payload.partition(".")[0]
        return expires.isdigit() and int(expires) > self._clock()

    def is_signed_in(self, request: Request) -> bool:
        """Return whether the request carries a valid session."""
        return self.is_valid(request.cookies.get(self.cookie_name))

    def is_operator(self, request: Request) -> bool:
        """Return whether the request carries the session of somebody who operates the server."""
        value = request.cookies.get(self.cookie_name) or ""
        return self.is_valid(value) and value.split(".")[1] == OPERATOR

    def open_on(self, response: Response, request: Request, *, is_operator: bool) -> None:
        """Set the cookie: invisible to scripts, and never sent along from another site's page."""
        response.set_cookie(
            self.cookie_name,
            self.issue(is_operator=is_operator),
            max_age=LIFETIME_S,
            path=cookie_path(request),
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )

    def close_on(self, response: Response, request: Request) -> None:
        """Remove the cookie."""
        response.delete_cookie(self.cookie_name, path=cookie_path(request), httponly=True, samesite="strict")

    def _sign(self, payload: str) -> str:
        digest = hmac.new(self._secret, payload.encode(errors="replace"), "sha256").digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def cookie_path(request: Request) -> str:
    """Return the path under which the console lives."""
    return str(request.scope.get("root_path", "")) or "/"


def is_same_origin(request: Request) -> bool:
    """Return whether a form was sent from one of our own pages.

    The browser says so itself: Sec-Fetch-Site where the origin is trustworthy (https or localhost), Origin
    elsewhere. A request that says neither does not come from a browser page and has no business posting here.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in {"same-origin", "none"}
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc == request.headers.get("host")


def bearer_key(request: Request) -> str | None:
    """Return the API key in the Authorization header, for those who ask a page's JSON from a terminal."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


def local_target(target: str, base: str) -> str:
    """Return ``target`` when it is a page of this console, else the console's first page.

    A sign-in link must not be able to send people elsewhere: ``//host``, ``/\\host`` and other schemes are
    refused because only a path below ``base`` is taken.
    """
    parts = urlsplit(target)
    is_ours = not parts.scheme and not parts.netloc and parts.path.startswith(f"{base}/")
    is_plain = "\\" not in target and ".." not in target and target.isprintable()
    return target if is_ours and is_plain else f"{base}/playground"
