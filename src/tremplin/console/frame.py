"""What stands around every page: state, what serves, language, theme, navigation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast, get_args

from starlette.requests import Request
from starlette.responses import Response

from tremplin.console.contexts import Frame, NavItem, Serving, Theme
from tremplin.console.i18n import Language, choose_language, language
from tremplin.console.session import Sessions
from tremplin.console.view import ConsoleView

LANG_COOKIE = "tremplin_lang"
THEME_COOKIE = "tremplin_theme"
YEAR_S = 365 * 24 * 3600

PAGES = ("playground", "models", "optimise")

NEXT_THEME: Mapping[Theme, Theme] = {"system": "light", "light": "dark", "dark": "system"}


@dataclass(frozen=True)
class Framer:
    """Draws the frame for a request."""

    view: ConsoleView
    sessions: Sessions
    assets: Mapping[str, str]
    """Source name to hashed file name."""

    def frame(self, request: Request, *, command: str = "", has_json: bool = False) -> Frame:
        """Return the frame of the page asked for."""
        base = base_of(request)
        theme = theme_of(request)
        path = request.url.path
        live = self.view.live()
        is_inside = self.view.is_open or self.sessions.is_signed_in(request)
        return Frame(
            lang=language_of(request).code,
            theme=theme,
            next_theme=NEXT_THEME[theme],
            base=base,
            nav=_nav(base, path) if is_inside else (),
            can_sign_out=is_inside and not self.view.is_open,
            serving=Serving(self.view.state(), tuple(dict.fromkeys(version.ref for version in live)), len(live)),
            version=self.view.version,
            docs_url=self.view.docs_url,
            assets={name: f"{base}/static/{built}" for name, built in self.assets.items()},
            command=command,
            json_href=f"{path}?format=json" if has_json else "",
        )


def base_of(request: Request) -> str:
    """Return the path the console is mounted at, such as ``/console``."""
    return str(request.scope.get("root_path", ""))


def language_of(request: Request) -> Language:
    """Return the reader's language."""
    return language(
        choose_language(
            request.query_params.get("lang"),
            request.cookies.get(LANG_COOKIE),
            request.headers.get("accept-language"),
        )
    )


def theme_of(request: Request) -> Theme:
    """Return the theme asked for in the address, else the remembered one, else the system's."""
    for asked in (request.query_params.get("theme"), request.cookies.get(THEME_COOKIE)):
        if asked in get_args(Theme):
            return cast(Theme, asked)
    return "system"


def remember_choices(response: Response, request: Request) -> None:
    """Keep a language or a theme chosen in the address; neither says anything about the person."""
    if "lang" in request.query_params:
        response.set_cookie(LANG_COOKIE, language_of(request).code, max_age=YEAR_S, samesite="lax")
    if "theme" in request.query_params:
        # Not HttpOnly: theme.js writes the same cookie when the theme changes in place.
        response.set_cookie(THEME_COOKIE, theme_of(request), max_age=YEAR_S, samesite="lax")


def _nav(base: str, path: str) -> tuple[NavItem, ...]:
    return tuple(NavItem(name, f"{base}/{name}", path.startswith(f"{base}/{name}")) for name in PAGES)
