from __future__ import annotations

import logging
import re
from html.parser import HTMLParser

import httpx
import pytest
from console_standin import SAME_ORIGIN, OpenConsole, StandInServices, signed_in

from tremplin.console.playground import SERVICES
from tremplin.errors import EmptyText, InvalidText, NotReady, Overloaded, TextTooLong

HTMX = {"hx-request": "true", **SAME_ORIGIN}
PAGES = (
    "/console/sign-in",
    *(f"/console/playground/{service}" for service in SERVICES),
    "/console/playground/classify?example=2",
    "/console/models",
    "/console/models/minilm",
    "/console/models/support-desk",
    "/console/models/minilm/1-fp32",
    "/console/models/support-desk/2-int8",
    "/console/nowhere",
    "/console/models/nothing",
    "/console/models/minilm/99",
    "/console/playground/nothing",
)
HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'{{ 7*7 }}"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags(html: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(html)
    return parser.found


def assert_obeys_the_content_policy(html: str) -> None:
    for tag, attributes in tags(html):
        assert tag != "style"
        assert tag != "script" or attributes.get("src", "").startswith("/console/static/")  # type: ignore[union-attr]
        assert not [name for name in attributes if name == "style" or name.startswith("on")], tag
        for name in ("src", "href", "action"):
            assert not (attributes.get(name) or "").lower().startswith(("javascript:", "data:")), tag


@pytest.mark.parametrize("lang", ["en", "fr"])
@pytest.mark.parametrize("path", PAGES)
async def test_every_page_is_whole(console: httpx.AsyncClient, path: str, lang: str) -> None:
    if path == "/console/sign-in":
        console.cookies.clear()
    answer = await console.get(path, headers={"accept-language": lang})
    assert answer.status_code == (404 if re.search("nowhere|nothing|99", path) else 200)
    assert f'<html lang="{lang}"' in answer.text
    assert answer.headers["content-language"] == lang
    assert_obeys_the_content_policy(answer.text)
    names = [tag for tag, _ in tags(answer.text)]
    assert names.count("h1") == 1
    assert names.count("main") == 1
    ids = [attributes["id"] for _, attributes in tags(answer.text) if "id" in attributes]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("service", SERVICES)
async def test_an_example_is_answered_when_the_page_opens(console: httpx.AsyncClient, service: str) -> None:
    answer = await console.get(f"/console/playground/{service}")
    assert "4.39\u00a0ms" in answer.text
    assert "data-announce" in answer.text


async def test_without_script_a_form_gives_a_whole_page(console: httpx.AsyncClient) -> None:
    answer = await console.post("/console/playground/classify", data={"text": "my own words"}, headers=SAME_ORIGIN)
    assert answer.status_code == 200
    assert "<!doctype html>" in answer.text
    assert ">my own words</textarea>" in answer.text
    assert "Billing question" in answer.text


async def test_htmx_gets_the_answer_alone(console: httpx.AsyncClient) -> None:
    answer = await console.post("/console/playground/classify", data={"text": "my own words"}, headers=HTMX)
    assert answer.status_code == 200
    assert "<html" not in answer.text
    assert "Billing question" in answer.text
    assert_obeys_the_content_policy(answer.text)


async def test_a_classifier_may_abstain(open_console: OpenConsole) -> None:
    console = await signed_in(open_console(services=StandInServices(is_sure=False)))
    answer = await console.get("/console/playground/classify")
    assert "the model would rather not say" in answer.text
    assert "it answers from 45\u00a0% on" in answer.text


@pytest.mark.parametrize("service", SERVICES)
async def test_hostile_text_stays_text(console: httpx.AsyncClient, service: str) -> None:
    form = dict.fromkeys(("text", "a", "b", "query", "version"), HOSTILE)
    form["labels"] = f"{HOSTILE}\nother: {HOSTILE}"
    for headers in (SAME_ORIGIN, HTMX):
        answer = await console.post(f"/console/playground/{service}", data=form, headers=headers)
        assert answer.status_code == 200
        assert_obeys_the_content_policy(answer.text)
        assert not [tag for tag, _ in tags(answer.text) if tag == "img"]
        assert "49" not in re.findall(r"'(\d+)", answer.text)


async def test_a_hostile_host_header_stays_text(console: httpx.AsyncClient) -> None:
    answer = await console.get("/console/playground/classify", headers={"host": 'x"><script>alert(1)</script>'})
    assert_obeys_the_content_policy(answer.text)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (EmptyText("The field is empty."), 422, "There is no text to work on."),
        (TextTooLong("The text has 812 tokens; this model reads 256."), 422, "812 tokens"),
        (InvalidText("NUL"), 422, "characters that are not valid"),
        (Overloaded("The queue is full.", retry_after_s=2.5), 503, "Try again in 2.5 s."),
        (NotReady("Starting."), 503, "The server is not ready."),
        (ValueError("what a user wrote"), 500, "Something went wrong on the server."),
    ],
)
async def test_errors_are_designed_states(
    open_console: OpenConsole, error: Exception, status: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    console = await signed_in(open_console(services=StandInServices(error=error)))
    with caplog.at_level(logging.INFO):
        for headers in (HTMX, SAME_ORIGIN):
            answer = await console.post("/console/playground/classify", data={"text": "a text"}, headers=headers)
            assert answer.status_code == status
            assert words in answer.text
            assert re.search(r"<code>[0-9a-f]{16}</code>", answer.text)
            assert "what a user wrote" not in answer.text
    assert "what a user wrote" not in caplog.text
    if status == 500:
        assert "ValueError" in caplog.text


async def test_errors_speak_french(open_console: OpenConsole) -> None:
    console = await signed_in(open_console(services=StandInServices(error=TextTooLong("Too long."))))
    answer = await console.post(
        "/console/playground/embed", data={"text": "a"}, headers={"accept-language": "fr", **HTMX}
    )
    assert "Ce texte est plus long que ce que lit le modèle." in answer.text
    assert '<dd lang="en">Too long.</dd>' in answer.text


@pytest.mark.parametrize("body", [b"text=%ff", b"&".join(b"f%d=" % i for i in range(99))])
async def test_a_broken_form_is_told_so(console: httpx.AsyncClient, body: bytes) -> None:
    answer = await console.post(
        "/console/playground/classify",
        content=body,
        headers={"content-type": "application/x-www-form-urlencoded", **HTMX},
    )
    assert answer.status_code == 422
    assert 'class="problem"' in answer.text


async def test_a_huge_form_is_not_read(console: httpx.AsyncClient) -> None:
    answer = await console.post("/console/playground/classify", data={"text": "a" * 300_000}, headers=HTMX)
    assert answer.status_code == 422
    assert "more text than one request may carry" in answer.text


async def test_an_unknown_method_gets_a_page_too(console: httpx.AsyncClient) -> None:
    answer = await console.post("/console/models", headers=SAME_ORIGIN)
    assert answer.status_code == 405
    assert "<h1" in answer.text


async def test_nothing_is_asked_unasked_before_the_server_is_ready(
    open_console: OpenConsole, services: StandInServices
) -> None:
    console = await signed_in(open_console(services=services, state="starting"))
    answer = await console.get("/console/playground/classify")
    assert "No answer yet" in answer.text
    assert "starting" in answer.text
    assert services.asked == []


async def test_an_empty_registry_says_what_to_do(open_console: OpenConsole) -> None:
    console = await signed_in(open_console(is_empty=True, live=()))
    answer = await console.get("/console/models")
    assert "The registry is empty" in answer.text
    assert "tremplin import" in answer.text
    assert "nothing is served" in answer.text


async def test_a_forced_version_is_warned_about(console: httpx.AsyncClient) -> None:
    for path in ("/console/models/support-desk", "/console/models/support-desk/2-int8"):
        assert "support-desk@2-int8 is served although it misses a bound." in (await console.get(path)).text
    assert "misses a bound" not in (await console.get("/console/models/minilm")).text


async def test_language_and_theme_are_remembered(console: httpx.AsyncClient) -> None:
    await console.get("/console/models?lang=fr&theme=dark")
    answer = await console.get("/console/models")
    assert '<html lang="fr" data-theme="dark">' in answer.text
    assert '<meta name="color-scheme" content="dark">' in answer.text


async def test_every_page_has_its_json(console: httpx.AsyncClient) -> None:
    for path in ("/console/models", "/console/models/minilm", "/console/models/minilm/2-int8"):
        page = await console.get(path)
        assert f'href="{path}?format=json"' in page.text
        context = (await console.get(f"{path}?format=json")).json()
        assert context
        assert "<svg" not in str(context)
    answer = (await console.get("/console/playground/similarity?format=json")).json()
    assert answer["panel"]["answer"]["result"]["cosine"] == pytest.approx(0.8234)


async def test_the_console_works_below_a_prefix(open_console: OpenConsole) -> None:
    # A proxy that serves everything under /nlp says so in root_path.
    client = open_console()
    client._transport.root_path = "/nlp"  # type: ignore[attr-defined]
    answer = await client.get("/nlp/console/sign-in")
    assert answer.status_code == 200
    assert 'action="/nlp/console/sign-in"' in answer.text
    assert '"/nlp/console/static/app-' in answer.text
