"""The console as a person meets it: a real Chromium against the real server.

Every page, in both languages, both themes and two widths: no accessibility violation (axe-core), no console
error, no breach of the content policy, no request to another origin, no sideways scroll.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import pytest

from tests.unit.console.run_standin import held, write_run, write_study
from tremplin.optimize.recipes.run_folder import RunFolder, RunState

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.browser

AXE = Path(__file__).parents[2] / "console-assets" / "node_modules" / "axe-core" / "axe.min.js"
AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]
LOCALES = {"en": "en-GB", "fr": "fr-FR"}
WIDTHS = {"desk": 1280, "phone": 390}

# Runs before the page's own scripts; collected with page.evaluate.
WATCH_POLICY = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
});
"""


class LiveServer(Protocol):
    data: Path
    base_url: str
    api_key: str
    console_ticket: str


@dataclass
class Visit:
    """A page, and everything that went wrong on it."""

    page: Any
    origin: str
    faults: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.faults.append(f"page error: {error}"))
        self.page.on("request", self._on_request)

    def _on_console(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.faults.append(f"console {message.type}: {message.text}")

    def _on_request(self, request: Any) -> None:
        if not request.url.startswith(self.origin + "/"):
            self.faults.append(f"request outside the origin: {request.url}")

    def open(self, path: str) -> None:
        self.page.goto(self.origin + path)
        # htmx starts in a task of its own, shortly after the page has loaded.
        self.page.wait_for_function(
            "() => document.querySelectorAll('[hx-post]:not([data-htmx-powered])').length === 0"
        )

    def check(self) -> None:
        """Fail on anything noticed so far, on a broken policy and on a sideways scroll."""
        violations = self.page.evaluate("window.violations ?? []")
        assert not violations, violations
        assert not self.faults, self.faults
        overflow = self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0, f"the page is {overflow} px wider than the window"

    def check_accessibility(self) -> None:
        if not AXE.is_file():
            pytest.skip("axe-core is not installed: run `npm ci` in console-assets")
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        report = self.page.evaluate(
            "(tags) => axe.run(document, {runOnly: {type: 'tag', values: tags}})", AXE_TAGS
        )
        found = [
            f"{violation['id']}: {node['target']} {node.get('failureSummary', '')}"
            for violation in report["violations"]
            for node in violation["nodes"]
        ]
        assert not found, "\n".join(found)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def origin(live_server: LiveServer) -> str:
    parts = urlsplit(live_server.base_url)
    return f"{parts.scheme}://{parts.netloc}"


@pytest.fixture(scope="module")
def session(browser: Any, origin: str, live_server: LiveServer) -> Any:
    """The state of a browser that has signed in."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{origin}/console/sign-in")
    page.fill("#key", live_server.api_key)
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/playground/**")
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture(scope="module")
def pages(browser: Any, origin: str, session: Any) -> list[str]:
    """Every page there is, found by following the console's own links."""
    context = browser.new_context(storage_state=session)
    page = context.new_page()

    def links(path: str, selector: str) -> list[str]:
        page.goto(origin + path)
        return [link.get_attribute("href") for link in page.query_selector_all(selector)]

    services = links("/console/playground", ".tabs a")
    models = links("/console/models", ".model-list h2 a")
    versions = [href for model in models for href in links(model, ".compare thead a")[:1]]
    context.close()
    assert len(services) == 6
    assert models
    assert versions
    return [*services, "/console/models", *models, *versions, "/console/optimise"]


@pytest.fixture
def open_browser(browser: Any, origin: str, session: Any) -> Iterator[Any]:
    contexts: list[Any] = []

    def opened(*, signed_in: bool = True, width: int = 1280, lang: str = "en", **options: Any) -> Visit:
        context = browser.new_context(
            storage_state=session if signed_in else None,
            viewport={"width": width, "height": 800},
            locale=LOCALES[lang],
            **options,
        )
        contexts.append(context)
        context.add_init_script(WATCH_POLICY)
        visit = Visit(context.new_page(), origin)
        visit.watch()
        return visit

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("lang", LOCALES)
def test_every_page_is_sound(open_browser: Any, pages: list[str], lang: str, theme: str, width: int) -> None:
    visit = open_browser(lang=lang, color_scheme=theme, width=width)
    for path in pages:
        visit.open(path)
        assert visit.page.get_attribute("html", "lang") == lang
        for summary in visit.page.query_selector_all("main summary"):
            summary.click()
        visit.check()
        visit.check_accessibility()


@pytest.mark.parametrize("width", [320, 768, 1024, 1920])
def test_no_width_makes_a_page_scroll_sideways(open_browser: Any, pages: list[str], width: int) -> None:
    visit = open_browser(lang="fr", width=width)  # French words are the longer ones
    for path in pages:
        visit.open(path)
        visit.check()


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("lang", LOCALES)
def test_the_door_is_sound(open_browser: Any, lang: str, width: int) -> None:
    visit = open_browser(signed_in=False, lang=lang, width=width)
    visit.open("/console/models")
    assert "/console/sign-in" in visit.page.url
    visit.check()
    visit.check_accessibility()


def test_a_missing_page_is_shown_in_the_frame(open_browser: Any) -> None:
    visit = open_browser()
    visit.open("/console/nowhere")
    visit.faults = [fault for fault in visit.faults if "404" not in fault]
    assert visit.page.locator("nav.side").count() == 1
    visit.check()
    visit.check_accessibility()


def test_the_link_that_up_prints_opens_the_console_once(
    open_browser: Any, live_server: LiveServer, origin: str
) -> None:
    visit = open_browser(signed_in=False)
    visit.page.goto(f"{origin}/console/enter?ticket={live_server.console_ticket}")
    visit.page.wait_for_url("**/console/playground/**")
    visit.check()
    stranger = open_browser(signed_in=False)
    stranger.page.goto(f"{origin}/console/enter?ticket={live_server.console_ticket}")
    assert "has been used" in stranger.page.inner_text("main")


def test_an_answer_is_swapped_in_and_spoken(open_browser: Any) -> None:
    visit = open_browser()
    visit.open("/console/playground/classify")
    before = visit.page.url
    visit.page.fill("#text", "I would like my money back, the parcel never came.")
    visit.page.click("#ask button.primary")
    visit.page.wait_for_function("() => document.getElementById('live').textContent.length > 0")
    spoken = visit.page.inner_text("#live")
    assert spoken.endswith(".")
    assert visit.page.url == before
    assert "my money back" in visit.page.inner_text(".same")
    visit.check()
    visit.check_accessibility()


def test_an_example_fills_the_form_and_asks(open_browser: Any) -> None:
    visit = open_browser()
    visit.open("/console/playground/similarity")
    second = visit.page.locator(".examples a").nth(1)
    with visit.page.expect_response("**/console/playground/similarity"):
        second.click()
    assert visit.page.input_value("#a").startswith(second.inner_text()[:20])
    assert second.get_attribute("aria-current") == "true"
    visit.check()


def test_words_are_explained_on_demand(open_browser: Any) -> None:
    visit = open_browser()
    visit.open("/console/playground/classify")
    with visit.page.expect_response("**/console/playground/explain"):
        visit.page.click(".outcome form button")
    visit.page.wait_for_selector("#explanation .explained")
    assert visit.page.locator("#explanation .provenance").count() == 0
    visit.check()
    visit.check_accessibility()


def test_a_slow_answer_shows_that_it_is_on_its_way(open_browser: Any) -> None:
    visit = open_browser()
    page = visit.page
    visit.open("/console/playground/classify")
    page.evaluate(
        """() => {
          const fetched = window.fetch;
          const delay = () => new Promise((resolve) => setTimeout(resolve, 1600));
          window.fetch = (...request) => delay().then(() => fetched(...request));
        }"""
    )
    page.evaluate(
        """() => {
          window.seen = new Set();
          const reply = document.querySelector(".reply");
          new MutationObserver(() => reply.classList.forEach((name) => window.seen.add(name)))
            .observe(reply, { attributes: true });
        }"""
    )
    page.click("#ask button.primary")
    page.wait_for_function("() => window.seen.has('is-slow')")
    page.wait_for_function("() => !document.querySelector('.reply.is-loading')")
    assert page.evaluate("[...window.seen].sort()") == ["is-loading", "is-slow", "reply"]
    assert page.locator("#answer .headline").is_visible()
    visit.check()


def test_an_empty_text_is_refused_as_a_designed_state(open_browser: Any) -> None:
    visit = open_browser()
    visit.open("/console/playground/classify")
    visit.page.fill("#text", "   ")
    visit.page.click("#ask button.primary")
    visit.page.wait_for_selector("#answer .problem")
    assert re.search(r"[0-9a-f]{8}", visit.page.inner_text("#answer .problem"))
    visit.faults = [fault for fault in visit.faults if "422" not in fault]
    visit.check()
    visit.check_accessibility()


def test_a_lost_connection_keeps_the_text(open_browser: Any) -> None:
    visit = open_browser()
    visit.open("/console/playground/classify")
    visit.page.fill("#text", "still here")
    visit.page.context.set_offline(True)
    visit.page.click("#ask button.primary")
    visit.page.wait_for_selector("#answer .problem")
    assert "did not answer" in visit.page.inner_text("#answer")
    assert visit.page.input_value("#text") == "still here"


def test_the_keyboard_reaches_everything_in_order(open_browser: Any) -> None:
    visit = open_browser()
    page = visit.page
    visit.open("/console/playground/classify")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    with page.expect_response("**/console/playground/classify"):
        page.keyboard.press("Control+Enter")
    page.keyboard.type("?")
    assert not page.locator("#keys").is_visible()
    page.locator("h1").click()
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    visit.check_accessibility()
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()
    visit.check()


def test_single_keys_can_be_turned_off(open_browser: Any) -> None:
    visit = open_browser()
    page = visit.page
    visit.open("/console/models")
    page.keyboard.press("?")
    page.uncheck("#single-keys")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert not page.locator("#keys").is_visible()
    visit.open("/console/playground/classify")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") != "text"


def test_the_theme_is_kept_without_a_flash(open_browser: Any) -> None:
    visit = open_browser(color_scheme="light")
    page = visit.page
    visit.open("/console/models")

    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))

    light = ground()
    page.click("[data-theme-link]")  # system -> light
    assert ground() == light
    page.click("[data-theme-link]")  # light -> dark
    dark = ground()
    assert dark != light
    # The server writes the theme into the page: it is there before any script has run.
    response = page.context.request.get(page.url)
    assert 'data-theme="dark"' in response.text()
    visit.open("/console/models")
    assert ground() == dark
    visit.check()


def test_codes_can_be_switched_and_copied(open_browser: Any) -> None:
    visit = open_browser(permissions=["clipboard-read", "clipboard-write"])
    page = visit.page
    visit.open("/console/playground/embed")
    assert page.locator(".code-curl").is_visible()
    page.locator(".switch input").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".code-python").is_visible()
    assert not page.locator(".code-curl").is_visible()
    page.click(".same [data-copy]")
    page.wait_for_function("() => document.querySelector('.same [data-copy]').textContent === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()").startswith("import json")
    visit.check()


def test_everything_works_without_script(open_browser: Any, pages: list[str]) -> None:
    visit = open_browser(java_script_enabled=False)
    page = visit.page
    for path in pages:
        page.goto(visit.origin + path)
        assert page.locator("h1").is_visible()
    page.goto(f"{visit.origin}/console/playground/classify")
    page.fill("#text", "Where is my parcel?")
    page.click("#ask button.primary")
    assert page.input_value("#text") == "Where is my parcel?"
    assert page.locator("#answer .headline").is_visible()
    page.locator(".examples a").nth(1).click()
    assert page.url.endswith("?example=2")
    page.click(".outcome form button")
    assert page.url.endswith("/console/playground/explain")
    page.locator(".switch label").nth(1).click()
    assert page.locator(".code-python").is_visible()
    page.click(".langs a[hreflang=fr]")
    assert page.get_attribute("html", "lang") == "fr"
    page.click("a.theme")
    assert page.get_attribute("html", "data-theme") == "light"
    page.click(".sign-out button")
    assert page.url.endswith("/console/sign-in")


def test_nothing_moves_while_a_page_loads(open_browser: Any, pages: list[str]) -> None:
    visit = open_browser()
    visit.page.add_init_script(
        """
        window.shift = 0;
        new PerformanceObserver((list) => {
          for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
        }).observe({ type: "layout-shift", buffered: true });
        """
    )
    for path in pages:
        visit.open(path)
        assert visit.page.evaluate("window.shift") < 0.01, path


# -- optimise ------------------------------------------------------------------------------------------

TICKETS = "text,label\n" + "".join(
    f"{text} {number},{label}\n"
    for label, text in (("refund", "I want my money back for order"), ("delivery", "where is my parcel number"))
    for number in range(30)
)
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


@pytest.fixture
def runs(live_server: LiveServer) -> Iterator[Path]:
    """Return the folder of the server's runs; it is empty again afterwards."""
    folder = live_server.data / "runs"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@needs_torch
@pytest.mark.parametrize(("lang", "words"), [("en", "No run yet"), ("fr", "Aucune étude pour l’instant")])
def test_without_runs_the_page_says_what_to_do(open_browser: Any, lang: str, words: str) -> None:
    visit = open_browser(lang=lang)
    visit.open("/console/optimise")
    assert words in visit.page.inner_text("main")
    visit.page.locator("h1").click()
    visit.page.keyboard.press("/")
    assert visit.page.evaluate("document.activeElement.id") == "labelled"
    assert not visit.page.locator("#minutes").is_visible()
    visit.page.check("[value=search]")
    assert visit.page.locator("#minutes").is_visible()
    visit.check()
    visit.check_accessibility()


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")], ids=WIDTHS)
@pytest.mark.parametrize("lang", LOCALES)
def test_runs_in_every_state_are_sound(open_browser: Any, runs: Path, lang: str, width: int, theme: str) -> None:
    write_study(write_run(runs, "done", RunState.DONE, share=1.0, published=("done@1-fp32",)))
    write_study(write_run(runs, "hopeless", RunState.DONE, share=1.0), none_passes=True)
    write_run(runs, "failed", RunState.FAILED, error="Training diverged after step 12.")
    write_run(runs, "stopped", RunState.RUNNING)
    with held(write_run(runs, "working", RunState.RUNNING, seconds_left=410.0)):
        visit = open_browser(lang=lang, width=width, color_scheme=theme)
        for path in ("", "/done", "/hopeless", "/failed", "/stopped", "/working"):
            visit.open(f"/console/optimise{path}")
            for summary in visit.page.query_selector_all("main summary"):
                summary.click()
            visit.check()
            visit.check_accessibility()


def test_progress_is_followed_and_spoken_in_tenths(open_browser: Any, runs: Path) -> None:
    folder = RunFolder(runs, "intents")
    with held(write_run(runs, "intents", RunState.RUNNING, share=0.41)):
        visit = open_browser()
        page = visit.page
        visit.open("/console/optimise/intents")
        page.evaluate(
            """() => {
              window.spoken = [];
              const region = document.querySelector("#run [role=status]");
              const note = () => window.spoken.push(region.textContent.trim());
              new MutationObserver(note).observe(region, { childList: true, characterData: true, subtree: true });
            }"""
        )
        for share in (0.43, 0.48, 0.52):
            run = folder.read()
            assert run is not None
            folder.write(replace(run, share=share))
            page.wait_for_function(f"() => document.querySelector('progress').value === {share}")
        assert page.evaluate("window.spoken") == ["intents: 50\u00a0% done."]
        page.context.set_offline(True)
        page.wait_for_selector(".polled-lost", state="visible")
        page.context.set_offline(False)
        page.wait_for_selector(".polled-lost", state="hidden")
    write_study(folder.path)
    folder.write(replace(run, state=RunState.DONE, share=1.0))
    page.wait_for_selector(".study")
    assert page.evaluate("window.spoken.at(-1)").startswith("intents is done. small: 10 times as fast")
    assert page.locator("[hx-trigger]").count() == 0
    lost = ("ERR_INTERNET_DISCONNECTED", "Failed to fetch")
    visit.faults = [fault for fault in visit.faults if not any(words in fault for words in lost)]
    visit.check()


@needs_torch
def test_files_that_are_too_large_are_not_sent(open_browser: Any) -> None:
    visit = open_browser()
    page = visit.page
    visit.open("/console/optimise")
    page.fill("#name", "large")
    large = {"name": "large.csv", "mimeType": "text/csv", "buffer": b"text,label\n" + b"a" * 9_000_000}
    page.set_input_files("#labelled", files=[large])
    page.click(".start .primary")
    assert page.locator("#labelled:invalid").count() == 1
    assert page.locator("#refusal").count() == 0
    page.set_input_files("#labelled", files=[large | {"buffer": b"phrase,label\na,b\n"}])
    page.click(".start .primary")
    page.wait_for_selector("#refusal")
    assert "there is no column 'text'" in page.inner_text("#refusal")
    assert page.input_value("#name") == "large"
    visit.faults = [fault for fault in visit.faults if "422" not in fault]
    visit.check()
    visit.check_accessibility()


@needs_torch
def test_a_run_is_started_and_stopped(open_browser: Any, runs: Path) -> None:
    visit = open_browser()
    page = visit.page
    visit.open("/console/optimise")
    page.fill("#name", "tickets")
    sent = {"name": "tickets.csv", "mimeType": "text/csv", "buffer": TICKETS.encode()}
    page.set_input_files("#labelled", files=[sent])
    page.click(".start .primary")
    page.wait_for_url("**/console/optimise/tickets")
    visit.check_accessibility()
    page.wait_for_selector(".run-running", timeout=120_000)
    assert (runs / "tickets" / "upload" / "labelled" / "tickets.csv").read_text() == TICKETS
    page.click("[value=stop]")
    page.wait_for_selector("[value=go-on]", timeout=30_000)
    assert page.locator(".run-stopped").count() == 1
    visit.check()
    visit.check_accessibility()
