from __future__ import annotations

import httpx
import pytest
from console_standin import SAME_ORIGIN, OpenConsole

from tremplin.console.security import CONTENT_SECURITY_POLICY, SECURITY_HEADERS


def test_the_policy_allows_nothing_unsafe() -> None:
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "*" not in CONTENT_SECURITY_POLICY
    assert "http" not in CONTENT_SECURITY_POLICY
    directives = dict(part.split(" ", 1) for part in CONTENT_SECURITY_POLICY.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == "'self'"
    assert directives["style-src"] == "'self'"
    assert directives["frame-ancestors"] == "'none'"


@pytest.mark.parametrize(
    "path",
    [
        "/console/models",
        "/console/sign-in",
        "/console/nowhere",
        "/console/static/nothing.js",
        "/console/playground",
    ],
)
async def test_every_answer_carries_the_headers(console: httpx.AsyncClient, path: str) -> None:
    answer = await console.get(path)
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name] == value
    assert answer.headers["cache-control"] == "no-store"


async def test_a_refusal_carries_them_too(open_console: OpenConsole) -> None:
    client = open_console()
    for answer in (
        await client.get("/console/models"),
        await client.post("/console/sign-out"),
        await client.put("/console/models", headers=SAME_ORIGIN),
    ):
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY


async def test_built_files_are_kept_for_good_and_need_no_session(open_console: OpenConsole) -> None:
    client = open_console()
    page = await client.get("/console/sign-in")
    script = page.text.split('src="')[1].split('"')[0]
    answer = await client.get(script)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert "javascript" in answer.headers["content-type"]


@pytest.mark.parametrize("path", ["/console/static/../router.py", "/console/static/%2e%2e/router.py"])
async def test_only_built_files_are_served(console: httpx.AsyncClient, path: str) -> None:
    assert (await console.get(path)).status_code == 404
