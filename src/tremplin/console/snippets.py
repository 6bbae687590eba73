"""The request the playground just made, as code to paste: curl, Python, JavaScript."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping

from tremplin.console.contexts import ServiceName, Snippet
from tremplin.tasks.zero_shot import CandidateLabel

KEY = "tk_..."

Body = dict[str, object]


def request_of(service: ServiceName, form: Mapping[str, str], labels: list[CandidateLabel]) -> tuple[str, Body]:
    """Return the route and the JSON body that ask what a form asks; embeddings speak OpenAI's dialect."""
    text = form.get("text", "")
    model: Body = {"model": form["version"]} if form.get("version") else {}
    match service:
        case "embed":
            return "/v1/embeddings", {"model": form.get("version") or "default", "input": [text]}
        case "classify":
            return "/v1/classify", {"inputs": [text], **model}
        case "similarity":
            return "/v1/similarity", {"source": form.get("a", ""), "sentences": [form.get("b", "")], **model}
        case "search":
            return "/v1/search", {"query": form.get("query", ""), "top_k": 5}
        case "zero-shot":
            offered = [{"label": label.label, "description": label.description} for label in labels]
            return "/v1/zero-shot", {"text": text, "labels": offered}
        case "explain":
            return "/v1/explain", {"text": text, **model}


def snippets(origin: str, route: str, body: Body) -> tuple[Snippet, ...]:
    """Return the request as curl, Python (standard library only) and JavaScript."""
    return (
        Snippet("curl", _curl(origin + route, body)),
        Snippet("python", _python(origin + route, body)),
        Snippet("javascript", _javascript(origin + route, body)),
    )


def _curl(url: str, body: Body) -> str:
    # A here-document: texts are full of apostrophes, which quoting would make unreadable. JSON writes line
    # ends as \\n, so no line of a text can end it.
    return (
        f"curl {shlex.quote(url)} \\\n"
        f"  -H 'Authorization: Bearer {KEY}' \\\n"
        "  -H 'Content-Type: application/json' \\\n"
        "  --data-binary @- <<'JSON'\n"
        f"{json.dumps(body, ensure_ascii=False, indent=2)}\n"
        "JSON"
    )


def _python(url: str, body: Body) -> str:
    return (
        "import json\n"
        "from urllib.request import Request, urlopen\n"
        "\n"
        f"body = {_python_literal(body)}\n"
        "request = Request(\n"
        f"    {json.dumps(url)},\n"
        "    data=json.dumps(body).encode(),\n"
        f'    headers={{"Authorization": "Bearer {KEY}", "Content-Type": "application/json"}},\n'
        ")\n"
        "print(json.load(urlopen(request)))"
    )


def _python_literal(body: Body) -> str:
    # The bodies hold only strings, numbers, lists and objects, whose JSON is Python as well.
    return json.dumps(body, ensure_ascii=False, indent=4)


def _javascript(url: str, body: Body) -> str:
    payload = json.dumps(body, ensure_ascii=False, indent=2).replace("\n", "\n  ")
    return (
        f"const response = await fetch({json.dumps(url)}, {{\n"
        '  method: "POST",\n'
        f'  headers: {{ Authorization: "Bearer {KEY}", "Content-Type": "application/json" }},\n'
        f"  body: JSON.stringify({payload}),\n"
        "});\n"
        "console.log(await response.json());"
    )
