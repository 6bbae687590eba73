from __future__ import annotations

import ast
import json

import pytest

from tremplin.console.contexts import ServiceName
from tremplin.console.playground import SERVICES, candidate_labels, examples
from tremplin.console.snippets import request_of, snippets

TRICKY = 'It\'s "quoted", $HOME `ls` \\ JSON\nJSON\n</script> é'


def request(service: ServiceName, form: dict[str, str]) -> tuple[str, dict[str, object]]:
    return request_of(service, form, candidate_labels(form.get("labels", "")))


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("lang", ["en", "fr"])
def test_every_example_becomes_code(service: ServiceName, lang: str) -> None:
    for form in examples(service, lang):
        route, body = request(service, dict(form))
        curl, python, javascript = snippets("http://localhost:8000", route, body)
        assert curl.code.startswith(f"curl http://localhost:8000{route} ")
        payload = curl.code.split("<<'JSON'\n")[1].rsplit("\nJSON", 1)[0]
        assert json.loads(payload) == body
        assigned = next(node for node in ast.parse(python.code).body if isinstance(node, ast.Assign))
        assert ast.literal_eval(assigned.value) == body
        assert json.dumps(f"http://localhost:8000{route}") in javascript.code


def test_a_hostile_text_cannot_leave_its_string() -> None:
    route, body = request("classify", {"text": TRICKY})
    curl, python, _ = snippets("http://localhost:8000", route, body)
    lines = curl.code.splitlines()
    assert lines.index("JSON") == len(lines) - 1
    assigned = next(node for node in ast.parse(python.code).body if isinstance(node, ast.Assign))
    assert ast.literal_eval(assigned.value) == {"inputs": [TRICKY]}


def test_the_chosen_version_is_in_the_request() -> None:
    assert request("classify", {"text": "a", "version": "m@2"})[1] == {"inputs": ["a"], "model": "m@2"}
    assert request("embed", {"text": "a", "version": "m@2"})[1] == {"model": "m@2", "input": ["a"]}
    assert request("embed", {"text": "a", "version": ""})[1] == {"model": "default", "input": ["a"]}


def test_labels_are_read_one_a_line() -> None:
    labels = candidate_labels("sport: Matches.\n\n économie : Prix : marchés \nweather")
    assert [(label.label, label.description) for label in labels] == [
        ("sport", "Matches."),
        ("économie", "Prix : marchés"),
        ("weather", ""),
    ]
