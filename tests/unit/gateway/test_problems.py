"""Each error has one form over HTTP, and the drawing in errors.py names each of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tremplin import errors
from tremplin.errors import BadInput, EngineFailed, Overloaded, TremplinError
from tremplin.gateway import problems
from tremplin.gateway.problems import KINDS, Dialect, kind_of, problem_of, problem_response


def tree(root: type[TremplinError] = TremplinError, depth: int = 0) -> Iterator[tuple[type[TremplinError], int]]:
    yield root, depth
    for branch in root.__subclasses__():
        yield from tree(branch, depth + 1)


CLASSES = [kind for kind, _ in tree()]


def example(kind: type[TremplinError]) -> TremplinError:
    return Overloaded("Full.", retry_after_s=1.25) if issubclass(kind, Overloaded) else kind("Wrong.")


@pytest.mark.parametrize("kind", CLASSES)
def test_each_class_has_an_entry_of_its_own(kind: type[TremplinError]) -> None:
    assert kind in KINDS
    assert kind_of(example(kind)) is KINDS[kind]


def test_the_table_holds_nothing_else() -> None:
    assert set(KINDS) == set(CLASSES)
    assert len({kind.slug for kind in KINDS.values()}) == len(KINDS)


def test_all_classes_live_in_one_module() -> None:
    assert all(kind.__module__ == errors.__name__ for kind in CLASSES)


def test_the_drawing_names_each_class_at_its_place() -> None:
    assert errors.__doc__ is not None
    drawn = []
    for line in errors.__doc__.splitlines():
        if (found := re.match(r"^    ([│├└─ ]*)([A-Z]\w+)\b", line)) is not None:
            drawn.append((found[2], len(found[1]) // 4))
    assert drawn == [(kind.__name__, depth) for kind, depth in tree()]


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("dialect", Dialect)
def test_each_problem_can_be_read_by_each_dialects_clients(kind: type[TremplinError], dialect: Dialect) -> None:
    response = problem_response(example(kind), dialect=dialect, request_id="r1")
    body = json.loads(bytes(response.body))
    assert response.headers["content-type"] == "application/problem+json"
    assert body["type"] == problems.TYPE_BASE + KINDS[kind].slug
    assert body["status"] == response.status_code
    assert 400 <= response.status_code < 600
    assert body["request_id"] == "r1"
    error = body["error"]
    if dialect in (Dialect.OPENAI, Dialect.NATIVE):
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"] == body["detail"]
    else:
        assert error == body["detail"]
        assert ("error_type" in body) is (dialect is Dialect.TEI)


def test_an_overloaded_server_says_when_to_come_back() -> None:
    response = problem_response(Overloaded("Full.", retry_after_s=1.25), dialect=Dialect.OPENAI, request_id="r")
    assert (response.status_code, response.headers["retry-after"], response.headers["retry-after-ms"]) == (
        429, "2", "1250",
    )  # fmt: skip
    assert "x-should-retry" not in response.headers


def test_what_a_retry_cannot_help_says_so() -> None:
    failed = problem_response(EngineFailed("No."), dialect=Dialect.OPENAI, request_id="r")
    assert (failed.status_code, failed.headers["x-should-retry"]) == (500, "false")
    in_tei = problem_response(EngineFailed("No."), dialect=Dialect.TEI, request_id="r")
    assert (in_tei.status_code, json.loads(bytes(in_tei.body))["error_type"]) == (424, "Backend")


def test_an_unexpected_error_says_nothing_of_itself() -> None:
    response = problem_response(ValueError("secret text"), dialect=Dialect.OPENAI, request_id="r")
    assert response.status_code == 500
    assert b"secret" not in response.body
    assert b"ValueError" not in response.body


@pytest.mark.parametrize(
    ("pointer", "rows_at", "expected"),
    [
        ("/3", "/inputs", "/inputs/3"),
        ("/3", "", None),
        ("/model", "/inputs", "/model"),
        ("/labels/0", "", "/labels/0"),
        (None, "/inputs", None),
    ],
)
def test_a_row_is_pointed_at_where_the_texts_are(pointer: str | None, rows_at: str, expected: str | None) -> None:
    problem = problem_of(
        BadInput("Wrong.", pointer=pointer), dialect=Dialect.NATIVE, request_id="r", rows_at=rows_at
    )
    assert json.loads(problem.body).get("pointer") == expected


def test_lone_surrogates_in_a_message_are_answered() -> None:
    response = problem_response(BadInput("There is no \ud800."), dialect=Dialect.V2, request_id="r")
    assert json.loads(bytes(response.body))["status"] == 422
