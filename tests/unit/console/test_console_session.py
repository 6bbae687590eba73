from __future__ import annotations

import httpx
import pytest
from console_standin import KEY, ORIGIN, SAME_ORIGIN, TICKET, OpenConsole, signed_in

from tremplin.console.session import LIFETIME_S, Sessions, local_target

SECRET = b"0123456789abcdef"


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_session_is_valid_until_it_expires() -> None:
    clock = Clock()
    sessions = Sessions(SECRET, clock)
    cookie = sessions.issue()
    assert sessions.is_valid(cookie)
    clock.now += LIFETIME_S - 1
    assert sessions.is_valid(cookie)
    clock.now += 1
    assert not sessions.is_valid(cookie)


@pytest.mark.parametrize("value", [None, "", ".", "..", "9999999999", "9999999999.x.", "é.ü.ß", "\udcff.a.b"])
def test_what_was_not_issued_is_refused(value: str | None) -> None:
    assert not Sessions(SECRET).is_valid(value)


def test_every_changed_character_is_noticed() -> None:
    sessions = Sessions(SECRET)
    cookie = sessions.issue()
    for place, character in enumerate(cookie):
        other = "1" if character != "1" else "2"
        assert not sessions.is_valid(cookie[:place] + other + cookie[place + 1 :]), place


def test_another_secret_signs_everybody_out() -> None:
    assert not Sessions(b"another secret, long enough").is_valid(Sessions(SECRET).issue())


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        Sessions(b"short")


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/console/playground",
        "//evil.example/console/playground",
        "/\\evil.example",
        "javascript:alert(1)",
        "/console/../v1/models",
        "/consoleevil",
        "/elsewhere",
        "/console/models\r\nSet-Cookie: a=b",
        "",
    ],
)
def test_signing_in_leads_nowhere_else(target: str) -> None:
    assert local_target(target, "/console") == "/console/playground"


def test_signing_in_leads_back_to_the_page_asked_for() -> None:
    assert local_target("/console/models/minilm", "/console") == "/console/models/minilm"


async def test_a_stranger_is_sent_to_the_sign_in_page(open_console: OpenConsole) -> None:
    answer = await open_console().get("/console/models/minilm")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/console/sign-in?next=/console/models/minilm"


async def test_htmx_is_told_to_leave_the_page(open_console: OpenConsole) -> None:
    answer = await open_console().post(
        "/console/playground/classify", data={"text": "a"}, headers={"hx-request": "true", **SAME_ORIGIN}
    )
    assert answer.status_code == 401
    assert answer.headers["hx-redirect"] == "/console/sign-in?next=/console/playground"


async def test_a_key_opens_a_session_with_a_guarded_cookie(open_console: OpenConsole) -> None:
    client = open_console()
    answer = await client.post(
        "/console/sign-in", data={"key": f" {KEY}\n", "next": "/console/models"}, headers=SAME_ORIGIN
    )
    assert answer.status_code == 303
    assert answer.headers["location"] == "/console/models"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "path=/console" in cookie
    assert KEY not in cookie
    assert (await client.get("/console/models")).status_code == 200


async def test_the_cookie_is_for_https_only_over_https(open_console: OpenConsole) -> None:
    client = open_console()
    client.base_url = httpx.URL("https://console.test")
    answer = await client.post("/console/sign-in", data={"key": KEY}, headers={"origin": "https://console.test"})
    assert "secure" in answer.headers["set-cookie"].lower()


async def test_a_wrong_key_is_told_so_and_not_shown_again(open_console: OpenConsole) -> None:
    answer = await open_console().post("/console/sign-in", data={"key": "tk_wrong"}, headers=SAME_ORIGIN)
    assert answer.status_code == 403
    assert "This key is not known here." in answer.text
    assert "tk_wrong" not in answer.text
    assert "set-cookie" not in answer.headers


async def test_a_ticket_opens_the_console_once(open_console: OpenConsole) -> None:
    client = open_console()
    first = await client.get("/console/enter", params={"ticket": TICKET})
    assert first.status_code == 200
    # Not a redirect: a SameSite=Strict cookie set on a redirect from another site would be held back.
    assert 'http-equiv="refresh" content="0; url=/console/playground"' in first.text
    assert (await client.get("/console/models")).status_code == 200
    client.cookies.clear()
    second = await client.get("/console/enter", params={"ticket": TICKET})
    assert second.status_code == 403
    assert "has been used" in second.text


async def test_a_link_preview_does_not_use_the_ticket_up(open_console: OpenConsole) -> None:
    client = open_console()
    assert (await client.head("/console/enter", params={"ticket": TICKET})).status_code == 204
    assert (await client.get("/console/enter", params={"ticket": TICKET})).status_code == 200


async def test_signing_out_ends_the_session(console: httpx.AsyncClient) -> None:
    assert (await console.post("/console/sign-out", headers=SAME_ORIGIN)).status_code == 303
    assert (await console.get("/console/models")).status_code == 303


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site", **SAME_ORIGIN},
        {"sec-fetch-site": "same-site", **SAME_ORIGIN},
    ],
)
async def test_a_form_from_elsewhere_is_refused(console: httpx.AsyncClient, headers: dict[str, str]) -> None:
    answer = await console.post("/console/playground/classify", data={"text": "a"}, headers=headers)
    assert answer.status_code == 403
    assert "This request was refused." in answer.text


@pytest.mark.parametrize("headers", [{"origin": ORIGIN}, {"sec-fetch-site": "same-origin"}])
async def test_a_form_from_our_own_page_is_taken(console: httpx.AsyncClient, headers: dict[str, str]) -> None:
    answer = await console.post("/console/playground/classify", data={"text": "a"}, headers=headers)
    assert answer.status_code == 200


async def test_a_key_reads_the_json_of_a_page_but_sends_no_form(open_console: OpenConsole) -> None:
    client = open_console()
    key = {"authorization": f"Bearer {KEY}"}
    assert (await client.get("/console/models?format=json", headers=key)).json()["models"]
    answer = await client.post("/console/playground/classify", data={"text": "a"}, headers=key | SAME_ORIGIN)
    assert answer.status_code == 303
    wrong = await client.get("/console/models?format=json", headers={"authorization": "Bearer tk_x"})
    assert wrong.status_code == 403
    assert (await client.get("/console/models?format=json")).json()["problem"]["kind"] == "MissingKey"


async def test_two_consoles_on_one_host_keep_their_own_cookies() -> None:
    assert Sessions(SECRET).cookie_name != Sessions(b"another secret, long enough").cookie_name


async def test_a_session_survives_a_second_sign_in(open_console: OpenConsole) -> None:
    client = await signed_in(open_console())
    assert (await client.get("/console/sign-in")).status_code == 303


async def test_an_open_console_asks_for_no_key(open_console: OpenConsole) -> None:
    client = open_console(is_open=True)
    page = await client.get("/console/models")
    assert page.status_code == 200
    assert "sign-out" not in page.text
    assert (await client.get("/console/sign-in")).headers["location"] == "/console/playground"
    foreign = await client.post("/console/playground/classify", data={"text": "a"}, headers={"origin": "null"})
    assert foreign.status_code == 403
