"""What docs/ promises is what the code has: options, settings, slugs, metrics, routes, links, two languages."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
import typer.main

from tremplin.cli import main as cli
from tremplin.config import Settings
from tremplin.gateway import problems
from tremplin.monitor.metrics import OF_A_VERSION, FleetCollector, Metrics

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TOP_PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


def read(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def section(page: str, heading: str) -> str:
    """Return a page from one second-level heading to the next."""
    text = read(page)
    match = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert match is not None, f"docs/{page} has no section {heading!r}"
    return match[1]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    found: set[str] = set()
    for heading in HEADING.findall(FENCE.sub("", page.read_text("utf-8"))):
        plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


def commands() -> Iterator[tuple[str, set[str]]]:
    """Return every command with its options, from the application itself."""
    if not cli.app.registered_commands:
        cli._register()
    group = typer.main.get_command(cli.app)
    yield "tremplin", options_of(group)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        if inner is None:
            yield f"tremplin {name}", options_of(command)
        else:
            for inner_name, inner_command in inner.items():
                yield f"tremplin {name} {inner_name}", options_of(inner_command)


def options_of(command: object) -> set[str]:
    """Return the long options of a command; an argument's name does not begin with a dash."""
    names = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}  # type: ignore[attr-defined]
    return {name for name in names if name.startswith("--")}


@pytest.mark.parametrize(
    ("command", "options"), list(commands()), ids=lambda value: value if isinstance(value, str) else "options"
)
def test_options_of_a_command_are_documented(command: str, options: set[str]) -> None:
    said = section("reference/cli.md", command)
    # A command says its own options; what they mean when shared is told once, above.
    missing = sorted(name for name in options - {"--help"} if f"`{name}" not in said and f"{name}`" not in said)
    assert not missing, f"docs/reference/cli.md, {command}: {missing}"


def test_documented_options_exist() -> None:
    known = {"--help"}.union(*(options for _, options in commands()))
    said = set(re.findall(r"`(--[a-z-]+)", read("reference/cli.md")))
    assert said <= known, said - known


def test_exit_codes_are_documented() -> None:
    said = section("reference/cli.md", "Exit codes")
    for code in {0, 1, 2, 70, 130, *(code for _, code in cli.EXIT_CODES)}:
        assert f"| {code} |" in said, f"exit code {code}"


def test_settings_are_documented_with_their_defaults() -> None:
    rows = dict(re.findall(r"^\| `(TREMPLIN_[A-Z_]+)` \| ([^|]+) \|", read("reference/settings.md"), re.MULTILINE))
    assert set(rows) == {f"TREMPLIN_{name.upper()}" for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        if name in ("data", "documents"):  # made at run time, described in words
            continue
        shown = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
        assert rows[f"TREMPLIN_{name.upper()}"] == f"`{shown}`", name


def kinds() -> list[problems.Kind]:
    """Return every kind of problem: those of the table and those that only HTTP knows."""
    alone = [value for value in vars(problems).values() if isinstance(value, problems.Kind)]
    return [*problems.KINDS.values(), *alone]


def test_every_problem_has_its_heading_and_status() -> None:
    text = read("reference/problems.md")
    parts = {match[1]: match[2] for match in re.finditer(r"^### (\S+)\n\n(\d{3})", text, re.MULTILINE)}
    assert parts == {kind.slug: str(kind.status) for kind in kinds()}


def test_type_of_a_problem_leads_to_the_page() -> None:
    assert problems.TYPE_BASE.endswith("docs/reference/problems.md#")
    assert {kind.slug for kind in kinds()} <= anchors(DOCS / "reference/problems.md")


def test_every_metric_is_documented_with_its_labels() -> None:
    row = r"^\| `([a-z_]+)` \| (?:counter|gauge|histogram|summary) \|([^|]*)\|"
    rows = dict(re.findall(row, read("reference/metrics.md"), re.MULTILINE))
    found = {name: list(FleetCollector.LABELS) for name, _, _ in OF_A_VERSION}
    for collector in set(Metrics().registry._collector_to_names):
        (family,) = collector.describe()
        suffix = "_total" if family.type == "counter" else ""
        found[family.name + suffix] = list(collector._labelnames)  # type: ignore[attr-defined]
    assert set(rows) == set(found)
    for name, labels in found.items():
        assert re.findall(r"`([a-z]+)`", rows[name]) == labels, name


def endpoints() -> set[tuple[str, str]]:
    """Return method and path of every endpoint; building the routes calls nothing of what they serve with."""
    found = set()
    for name in ("openai", "cohere", "tei", "native", "v2", "operations"):
        build = importlib.import_module(f"tremplin.gateway.routes.{name}").endpoints
        arguments = [None] * len(inspect.signature(build).parameters)
        found |= {(endpoint.method, endpoint.path.replace(":path}", "}")) for endpoint in build(*arguments)}
    return found


def test_every_endpoint_is_documented() -> None:
    text = read("reference/api.md")
    headings = set(re.findall(r"^### (GET|POST) (\S+)$", text, re.MULTILINE))
    missing = [
        f"{method} {path}"
        for method, path in sorted(endpoints())
        if (method, path) not in headings and f"`{path}`" not in text
    ]
    assert not missing
    made_by_the_framework = {("GET", "/openapi.json")}
    assert headings - made_by_the_framework <= endpoints()


@pytest.mark.parametrize("page", [*TOP_PAGES, *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_internal_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = unquote(target).partition("#")
        aim = (page.parent / path).resolve() if path else page
        assert aim.exists(), f"{page.name}: {target}"
        if anchor and aim.suffix == ".md":
            assert anchor in anchors(aim), f"{page.name}: {target}"


def test_every_page_is_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md" or not page.is_file():
            continue
        seen.add(page)
        targets = LINK.findall(FENCE.sub("", page.read_text("utf-8")))
        waiting += [
            (page.parent / target.partition("#")[0]).resolve() for target in targets if "://" not in target
        ]
    assert set(PAGES) <= seen, set(PAGES) - seen


def code_blocks(text: str) -> list[str]:
    return [block[0] for block in FENCE.finditer(text)]


def test_both_quickstarts_have_the_same_sections_and_commands() -> None:
    english, french = read("quickstart.md"), read("demarrage.md")
    numbers = [re.findall(r"^## (\d+)\. ", text, re.MULTILINE) for text in (english, french)]
    assert numbers[0] == numbers[1]
    assert len(re.findall(r"^## ", english, re.MULTILINE)) == len(re.findall(r"^## ", french, re.MULTILINE))
    assert code_blocks(english) == code_blocks(french)
    rows = [re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE) for text in (english, french)]
    # The messages are the program's; what is said between them is translated.
    assert [re.findall(r"`[^`]+`", row) for row in rows[0]] == [re.findall(r"`[^`]+`", row) for row in rows[1]]


def test_french_has_non_breaking_spaces() -> None:
    prose = re.sub(r"`[^`]*`", "", FENCE.sub("", read("demarrage.md")))
    assert not re.findall(r" [:;?!»](?=\s)", prose)


def test_commands_of_the_quickstart_exist() -> None:
    known = {name for name, _ in commands()}
    for page in ("quickstart.md", "demarrage.md"):
        for line in re.findall(r"^(?:.*\$\()?(tremplin [a-z]+(?: [a-z]+)?)", read(page), re.MULTILINE):
            words = line.split()
            assert line in known or " ".join(words[:2]) in known, line


def test_bounds_in_the_how_to_are_the_defaults() -> None:
    from tremplin.optimize.quality import default_bounds
    from tremplin.registry.task import Task

    said = read("how-to/optimise.md")
    for task in (Task.EMBEDDING, Task.CLASSIFICATION):
        for bound in default_bounds(task):
            assert f"`{str(bound).replace(' ', '')}`" in said


def test_schemes_are_documented() -> None:
    from tremplin.optimize.optimiser import SCHEMES

    assert re.findall(r"^\| `([a-z0-9]+)` \|", section("how-to/optimise.md", "Schemes"), re.MULTILINE) == list(
        SCHEMES
    )


def test_every_decision_is_listed() -> None:
    listed = set(LINK.findall(read("decisions/README.md")))
    assert {page.name for page in (DOCS / "decisions").glob("0*.md")} == listed
