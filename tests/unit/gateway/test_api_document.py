"""The OpenAPI document: valid, and it lists every endpoint that answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

PATHS = {
    "/v1/embeddings": {"post"},
    "/v1/models": {"get"},
    "/v1/models/{model}": {"get"},
    "/v1/rerank": {"post"},
    "/v2/rerank": {"post"},
    "/v1/classify": {"post"},
    "/v1/similarity": {"post"},
    "/v1/search": {"post"},
    "/v1/zero-shot": {"post"},
    "/v1/explain": {"post"},
    "/": {"post"},
    "/embed": {"post"},
    "/embed_all": {"post"},
    "/embed_sparse": {"post"},
    "/similarity": {"post"},
    "/predict": {"post"},
    "/rerank": {"post"},
    "/tokenize": {"post"},
    "/info": {"get"},
    "/v2": {"get"},
    "/v2/health/live": {"get"},
    "/v2/health/ready": {"get"},
    "/v2/models/{model}": {"get"},
    "/v2/models/{model}/ready": {"get"},
    "/v2/models/{model}/infer": {"post"},
    "/v2/models/{model}/versions/{version}": {"get"},
    "/v2/models/{model}/versions/{version}/ready": {"get"},
    "/v2/models/{model}/versions/{version}/infer": {"post"},
    "/v2/repository/index": {"post"},
    "/v2/repository/models/{model}/load": {"post"},
    "/v2/repository/models/{model}/unload": {"post"},
    "/livez": {"get"},
    "/readyz": {"get"},
    "/health": {"get"},
    "/metrics": {"get"},
    "/debug/batches": {"get"},
}
PUBLIC = {"/livez", "/readyz", "/health", "/metrics", "/v2/health/live", "/v2/health/ready"}


@pytest.fixture
async def document(tiny_client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await tiny_client.get("/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


async def test_it_lists_every_endpoint(document: dict[str, Any]) -> None:
    assert {path: set(methods) for path, methods in document["paths"].items()} == PATHS
    assert document["openapi"].startswith("3.1")


async def test_it_is_valid(document: dict[str, Any]) -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="pip install openapi-spec-validator")
    validator.validate(document)


async def test_its_references_lead_somewhere(document: dict[str, Any]) -> None:
    references = set(re.findall(r"'\$ref': '#/components/schemas/(\w+)'", str(document)))
    assert references
    assert references <= set(document["components"]["schemas"])
    assert references == set(document["components"]["schemas"]), "a schema nobody refers to"


async def test_its_operations_are_named_once_and_say_who_may_call(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))
    for path, method, operation in operations(document):
        assert operation["summary"], path
        assert ("security" in operation) is (path not in PUBLIC), path
        assert ("requestBody" in operation) is (method == "post"), path
        parameters = {parameter["name"] for parameter in operation.get("parameters", [])}
        assert parameters == set(re.findall(r"{(\w+)}", path)), path


async def test_what_it_lists_answers(document: dict[str, Any], tiny_client: httpx.AsyncClient) -> None:
    for path, method, _ in sorted(operations(document), key=lambda operation: "repository" in operation[0]):
        address = path.replace("{model}", "tiny").replace("{version}", "1-fp32")
        answer = await tiny_client.request(method, address, json={} if method == "post" else None)
        may_be_empty = "repository" in path
        assert answer.status_code == (422 if method == "post" and not may_be_empty else 200), path
