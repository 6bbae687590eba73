"""The page Optimise: runs in every state, what starts one, what is refused and why."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer.main
from console_standin import READER_KEY, SAME_ORIGIN, OpenConsole, signed_in
from run_standin import ChildLauncher, StandInLauncher, held, write_run, write_study
from test_console_pages import assert_obeys_the_content_policy, tags

from tremplin.cli import main as cli
from tremplin.console.desk import ATTEMPT_FILE, ORDER_FILE
from tremplin.console.orders import DEFAULTS, RunOrder
from tremplin.console.processes import NICENESS, DetachedLauncher, Process
from tremplin.optimize.recipes.run_folder import RunFolder, RunState

HTMX = {"hx-request": "true"}
ROWS = "".join(f"{word} number {n},{word}\n" for word in ("refund", "delivery", "login") for n in range(20))
CSV = f"text,label\n{ROWS}"
JSONL = "".join(f'{{"text": "{a} {n}", "label": "{a}"}}\n' for a in "xy" for n in range(20))
FORM = {"model": "minilm@1-fp32", "name": "intents", "allowed_loss": "0.6", "way": "tiers"}
PATIENCE_S = 60.0


def files(content: str | bytes = CSV, name: str = "tickets.csv", field: str = "labelled") -> dict[str, Any]:
    return {field: (name, content.encode() if isinstance(content, str) else content)}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "data" / "runs"


@pytest.fixture
def launcher() -> StandInLauncher:
    return StandInLauncher()


@pytest.fixture
async def console(open_console: OpenConsole, runs: Path, launcher: StandInLauncher) -> httpx.AsyncClient:
    return await signed_in(open_console(runs=runs, launcher=launcher))


async def start(console: httpx.AsyncClient, sent: dict[str, Any] | None = None, **fields: str) -> httpx.Response:
    return await console.post(
        "/console/optimise", data=FORM | fields, files=files() if sent is None else sent, headers=SAME_ORIGIN
    )


async def act(console: httpx.AsyncClient, run: str, do: str, **fields: str) -> httpx.Response:
    return await console.post(f"/console/optimise/{run}", data={"do": do} | fields, headers=SAME_ORIGIN)


# -- what is shown -------------------------------------------------------------------------------------


async def test_the_empty_page_says_what_to_do_first(console: httpx.AsyncClient) -> None:
    page = (await console.get("/console/optimise")).text
    assert "No run yet" in page
    assert "text,label" in page
    assert 'enctype="multipart/form-data"' in page
    assert "<option selected>minilm@1-fp32</option>" in page
    assert "2-int8</option>" not in page
    assert "support-desk" not in page.split("<form")[-1]
    assert "hx-trigger" not in page


@pytest.mark.parametrize("lang", ["en", "fr"])
async def test_runs_in_every_state_are_whole(console: httpx.AsyncClient, runs: Path, lang: str) -> None:
    headers = {"accept-language": lang}
    write_study(write_run(runs, "done", RunState.DONE, share=1.0, published=("done@1-fp32", "done@2-small-int8")))
    write_study(write_run(runs, "hopeless", RunState.DONE, share=1.0), none_passes=True)
    write_run(runs, "failed", RunState.FAILED, error="Training diverged after step 12.")
    write_run(runs, "stopped", RunState.RUNNING)
    write_run(runs, "trained", RunState.DONE, published=("support-desk@2-int8",), is_ours=False)
    working = write_run(runs, "working", RunState.RUNNING, seconds_left=410.0)
    with held(working):
        for path in ("", *(f"/{run.name}" for run in runs.iterdir())):
            for asked in (headers, headers | HTMX):
                answer = await console.get(f"/console/optimise{path}", headers=asked)
                assert answer.status_code == 200
                assert_obeys_the_content_policy(answer.text)
                ids = [attributes["id"] for _, attributes in tags(answer.text) if "id" in attributes]
                assert len(ids) == len(set(ids))
                assert ("<html" in answer.text) == (asked is headers)
            is_polled = path in {"", "/working"}
            assert ('hx-trigger="every 2s"' in answer.text) == is_polled, path


async def test_the_list_tells_state_progress_and_finding(console: httpx.AsyncClient, runs: Path) -> None:
    write_study(write_run(runs, "intents", RunState.DONE, share=1.0))
    working = write_run(runs, "working", RunState.RUNNING, seconds_left=410.0)
    with held(working):
        page = (await console.get("/console/optimise")).text
    assert "balanced: distil, epoch 2" in page
    assert "43\u00a0%" in page
    assert "about 7\u00a0min left" in page
    assert "small: 10 times as fast, 6.20\u00a0MB instead of 90.9\u00a0MB, loses 0.21\u00a0points (at most" in page
    assert "working is being worked" in page


async def test_a_done_run_compares_its_versions(console: httpx.AsyncClient, runs: Path) -> None:
    refs = ("intents@1-fp32", "intents@2-lossless-int8")
    write_study(write_run(runs, "intents", RunState.DONE, share=1.0, published=refs))
    page = (await console.get("/console/optimise/intents")).text
    assert "<svg" in page
    assert "A version may lose at most 0.6\u00a0points of accuracy." in page
    for words in ("not proven", "2.61\u00a0points", "at most 3.10", "93.9\u00a0±\u00a00.9\u00a0%", "88\u00a0×"):
        assert words in page
    assert 'href="/console/models/intents/2-lossless-int8"' in page
    assert "tremplin serve intents@2-lossless-int8" in page
    assert "2 classes of 4 lose" in page
    assert "The disk is full while quantize was writing." in page
    # Only what passes and is not published yet: balanced, and small also beside the finding.
    assert page.count('value="publish"') == 3
    french = (await console.get("/console/optimise/intents", headers={"accept-language": "fr"})).text
    assert "perd 0,21\u00a0point (au plus 0,53)" in french
    context = (await console.get("/console/optimise/intents?format=json")).json()["panel"]
    assert [version["verdict"] for version in context["versions"]] == ["reference", *["passes"] * 3, "fails"]
    assert context["finding"]["version"] == "small"
    assert "svg" not in context["pareto"]


async def test_a_version_that_serves_can_be_tried(console: httpx.AsyncClient, runs: Path) -> None:
    write_run(runs, "trained", RunState.DONE, published=("support-desk@2-int8",))
    page = (await console.get("/console/optimise/trained")).text
    assert 'href="/console/playground/classify"' in page.split("Published")[1]


async def test_no_good_version_is_said_as_such(console: httpx.AsyncClient, runs: Path) -> None:
    write_study(write_run(runs, "hopeless", RunState.DONE), none_passes=True)
    page = (await console.get("/console/optimise/hopeless")).text
    assert "No version is good enough" in page
    assert "the nearest, tiny, loses 2.61\u00a0points (at most 3.10)." in page


async def test_a_run_from_a_terminal_is_shown_with_its_command(console: httpx.AsyncClient, runs: Path) -> None:
    write_run(runs, "typed", RunState.RUNNING, is_ours=False)
    page = (await console.get("/console/optimise/typed")).text
    assert "This command goes on with it" in page
    assert 'value="go-on"' not in page
    answer = await act(console, "typed", "go-on")
    assert answer.status_code == 409
    assert "started in a terminal" in answer.text


async def test_a_damaged_study_does_not_hide_the_run(console: httpx.AsyncClient, runs: Path) -> None:
    folder = write_run(runs, "odd", RunState.DONE)
    (folder / "study.json").write_text('{"entries": [')
    assert (await console.get("/console/optimise")).status_code == 200
    assert "Nothing to compare" in (await console.get("/console/optimise/odd")).text


@pytest.mark.parametrize("name", ["nothing", "%2e%2e", "%2e%2e%2fkeys", ".desk.lock", "A"])
async def test_an_unknown_run_is_no_page(console: httpx.AsyncClient, name: str) -> None:
    assert (await console.get(f"/console/optimise/{name}")).status_code == 404


async def test_a_page_whose_run_is_gone_is_loaded_again(console: httpx.AsyncClient) -> None:
    polled = await console.get("/console/optimise/nothing", headers=HTMX)
    assert polled.headers["hx-refresh"] == "true"


async def test_hostile_names_stay_text(console: httpx.AsyncClient, runs: Path) -> None:
    folder = write_run(runs, "hostile", RunState.FAILED, error="<script>alert(1)</script>", step="<img src=x>")
    (folder / "log.txt").write_text("<script>alert(2)</script>\n")
    page = (await console.get("/console/optimise/hostile")).text
    assert_obeys_the_content_policy(page)
    assert "&lt;script&gt;alert(2)" in page


# -- who may, and what is missing ----------------------------------------------------------------------


async def test_a_reader_looks_and_does_not_start(open_console: OpenConsole, runs: Path) -> None:
    write_study(write_run(runs, "intents", RunState.DONE))
    reader = await signed_in(open_console(runs=runs), READER_KEY)
    page = (await reader.get("/console/optimise")).text
    assert "You may look, not start" in page
    assert "multipart" not in page
    assert 'value="publish"' not in (await reader.get("/console/optimise/intents")).text
    assert (await start(reader)).status_code == 403
    for do in ("stop", "go-on", "publish"):
        assert (await act(reader, "intents", do)).status_code == 403


async def test_without_torch_the_page_says_what_to_install(open_console: OpenConsole, runs: Path) -> None:
    write_run(runs, "stopped", RunState.RUNNING)
    console = await signed_in(open_console(runs=runs, can_train=False))
    page = (await console.get("/console/optimise")).text
    assert "pip install torch" in page
    assert "tremplin optimize minilm@1-fp32 --labelled" in page
    assert "multipart" not in page
    assert "pip install torch" in (await start(console)).text
    assert (await act(console, "stopped", "go-on")).status_code == 409


async def test_without_an_encoder_the_page_says_what_to_import(open_console: OpenConsole, runs: Path) -> None:
    console = await signed_in(open_console(is_empty=True, runs=runs))
    page = (await console.get("/console/optimise")).text
    assert "tremplin import" in page
    assert "multipart" not in page


@pytest.mark.parametrize("headers", [{}, {"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}])
async def test_forms_from_elsewhere_start_nothing(
    console: httpx.AsyncClient, runs: Path, launcher: StandInLauncher, headers: dict[str, str]
) -> None:
    write_run(runs, "stopped", RunState.RUNNING)
    answer = await console.post("/console/optimise", data=FORM, files=files(), headers=headers)
    assert answer.status_code == 403
    answer = await console.post("/console/optimise/stopped", data={"do": "go-on"}, headers=headers)
    assert answer.status_code == 403
    assert launcher.started == []


# -- what is sent --------------------------------------------------------------------------------------


def test_the_command_line_takes_what_an_order_says() -> None:
    if not cli.app.registered_commands:
        cli._register()
    command = typer.main.get_command(cli.app).commands["optimize"]  # type: ignore[attr-defined]
    given = {"labelled": Path("/a b.csv"), "test": Path("/t.csv"), "out_of_scope": Path("/-o.txt")}
    order = RunOrder("intents", "minilm@1-fp32", 0.8, 30, "-text", "label", given)
    taken = command.make_context("optimize", [*order.arguments()[1:], "--json", "--data=/data"]).params
    assert {name: taken[name] for name in given} == given
    assert (taken["version"], taken["name"], taken["text_column"]) == ("minilm@1-fp32", "intents", "-text")
    assert (taken["allowed_loss"], taken["search"], taken["budget"]) == (0.8, True, "30m")
    asked_nothing = command.make_context("optimize", []).params
    for field, option in (("allowed_loss", "allowed_loss"), ("text_column", "text_column")):
        assert DEFAULTS[field] == str(asked_nothing[option])


async def test_a_start_keeps_the_files_and_runs_the_command(
    console: httpx.AsyncClient, runs: Path, launcher: StandInLauncher
) -> None:
    sent = files(name="../../My  tickets (été).csv") | files("text,label\nsome refund,refund\n", "t.csv", "test")
    sent |= files("what is the weather\n", "far.txt", "out_of_scope")
    answer = await start(console, sent, way="search", minutes="30", allowed_loss="0,8")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/console/optimise/intents"
    (command,) = launcher.started
    labelled = runs / "intents" / "upload" / "labelled" / "My-tickets-été.csv"
    assert labelled.read_text() == CSV
    assert command[1:] == (
        "-m", "tremplin", "optimize", "minilm@1-fp32", "--name=intents", f"--labelled={labelled}",
        f"--test={runs / 'intents' / 'upload' / 'test' / 't.csv'}",
        f"--out-of-scope={runs / 'intents' / 'upload' / 'out_of_scope' / 'far.txt'}",
        "--text-column=text", "--label-column=label", "--allowed-loss=0.8", "--search", "--budget=30m", "--json",
        f"--data={runs.parent}",
    )  # fmt: skip
    assert json.loads((runs / "intents" / ORDER_FILE).read_text()) == list(command[3:])
    page = (await console.get("/console/optimise/intents")).text
    assert "starting" in page
    assert not list(runs.glob(".upload-*"))


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (CSV.encode("utf-16"), "tickets.csv"),
        (b"\xef\xbb\xbf" + CSV.replace("number", "numéro").encode(), "tickets.csv"),
        (CSV.replace(",", ";").encode(), "tickets.csv"),
        (JSONL.encode(), "tickets.jsonl"),
    ],
    ids=["utf-16", "bom", "semicolon", "jsonl"],
)
async def test_text_is_kept_as_utf_8(console: httpx.AsyncClient, runs: Path, content: bytes, kept: str) -> None:
    assert (await start(console, files(content))).status_code == 303
    (path,) = (runs / "intents" / "upload" / "labelled").iterdir()
    assert path.name == kept
    assert path.read_text("utf-8")[0] in "t{"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x03\x04\x14\0\x06\0", "is a workbook, not text"),
        (b"%PDF-1.7 text,label", "is not text"),
        (b"text,label\nab\0c,refund\n", "holds NUL bytes"),
        (CSV.encode("utf-16-le"), "holds NUL bytes"),
        (CSV.replace("number", "numéro").encode("cp1252"), "looks like WINDOWS-1252"),
        (b"", "holds no text"),
        (b" \n \n", "holds no text"),
        (
            b"phrase,intent\nwhere is it,delivery\n",
            "and &#39;label&#39;; there are: phrase, intent",
        ),
        (b"text,label\nonly one row,refund\n", "classifier needs at least 2"),
        (("text,label\n" + "a" * 100_001 + ",b\n").encode(), "have more than 100\u00a0kB together"),
        (("text,label\n" + "a" * 400_000 + ",b\n").encode(), "have more than 100\u00a0kB together"),
    ],
    ids=["xlsx", "pdf", "nul", "utf-16", "cp1252", "empty", "blank", "columns", "one class", "large", "huge"],
)
async def test_what_cannot_train_is_refused_with_a_reason(
    console: httpx.AsyncClient, runs: Path, launcher: StandInLauncher, content: bytes, words: str
) -> None:
    answer = await start(console, files(content))
    assert answer.status_code == 422
    assert words in answer.text
    assert "aria-invalid" in answer.text
    assert str(runs) not in answer.text
    assert launcher.started == []
    assert not [path for path in runs.glob("*") if path.is_dir()]


async def test_what_was_written_is_still_there_after_a_refusal(console: httpx.AsyncClient) -> None:
    nothing = {"labelled": ("", b"")}  # what a browser sends when no file was chosen
    answer = await start(console, nothing, name="my-own", allowed_loss="1,5", way="search", minutes="7")
    assert answer.status_code == 422
    assert "Choose the file with the labelled texts." in answer.text
    for value in ("my-own", "1,5", "7"):
        assert f'value="{value}"' in answer.text
    assert 'value="search" checked' in answer.text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "Été"}, "A name has lower-case letters"),
        ({"name": "../up"}, "A name has lower-case letters"),
        ({"name": "minilm"}, "is a model that does something else"),
        ({"model": "minilm@2-int8"}, "Choose one of the encoders"),
        ({"allowed_loss": "-1"}, "a number from 0 to 100"),
        ({"allowed_loss": "nan"}, "a number from 0 to 100"),
        ({"way": "search", "minutes": "0"}, "whole number of minutes"),
        ({"text_column": "a\x07b"}, "printable characters"),
        ({"text_column": "phrase"}, "there is no column &#39;phrase&#39;"),
    ],
)
async def test_fields_are_checked(
    console: httpx.AsyncClient, launcher: StandInLauncher, fields: dict[str, str], words: str
) -> None:
    answer = await start(console, **fields)
    assert answer.status_code == 422
    assert words in answer.text
    assert launcher.started == []


async def test_hostile_fields_stay_text(console: httpx.AsyncClient) -> None:
    hostile = '"><script>alert(1)</script>{{ 7*7 }}'
    answer = await start(console, files(name=hostile), name=hostile, model=hostile, text_column=hostile)
    assert_obeys_the_content_policy(answer.text)


async def test_a_form_that_is_none_is_refused(console: httpx.AsyncClient, launcher: StandInLauncher) -> None:
    answer = await console.post("/console/optimise", data=FORM, headers=SAME_ORIGIN)
    assert answer.status_code == 422
    broken = {"content-type": "multipart/form-data; boundary=x", **SAME_ORIGIN}
    assert (await console.post("/console/optimise", content=b"--y\r\n", headers=broken)).status_code == 422
    assert (await act(console, "nothing", "stop")).status_code == 404
    assert launcher.started == []


async def test_a_taken_name_is_refused(console: httpx.AsyncClient, runs: Path, launcher: StandInLauncher) -> None:
    write_run(runs, "intents", RunState.DONE)
    answer = await start(console)
    assert answer.status_code == 422
    assert "There is a run intents already." in answer.text
    assert launcher.started == []


async def test_uploads_that_were_cut_off_are_removed(console: httpx.AsyncClient, runs: Path) -> None:
    left = runs / ".upload-left"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    await start(console)
    assert not left.exists()


# -- publishing ----------------------------------------------------------------------------------------


async def test_a_version_is_published_once(console: httpx.AsyncClient, runs: Path) -> None:
    write_study(write_run(runs, "intents", RunState.DONE))
    for _ in range(2):
        assert (await act(console, "intents", "publish", version="small")).status_code == 303
    run = RunFolder(runs, "intents").read()
    assert run is not None
    assert run.published == ("intents@9-small-int8",)


async def test_a_version_the_gate_stopped_is_not_published(console: httpx.AsyncClient, runs: Path) -> None:
    write_study(write_run(runs, "intents", RunState.DONE))
    answer = await act(console, "intents", "publish", version="tiny")
    assert answer.status_code == 409
    assert "does not keep its bounds" in answer.text
    assert "3.10 points" in answer.text


async def test_nothing_is_published_while_a_run_is_worked(console: httpx.AsyncClient, runs: Path) -> None:
    write_study(write_run(runs, "intents", RunState.DONE))
    with held(write_run(runs, "working", RunState.RUNNING)):
        assert 'value="publish"' not in (await console.get("/console/optimise/intents")).text
        answer = await act(console, "intents", "publish", version="small")
    assert answer.status_code == 409
    assert "working is being worked" in answer.text


# -- a real process ------------------------------------------------------------------------------------


@pytest.fixture
async def real(open_console: OpenConsole, runs: Path) -> AsyncIterator[httpx.AsyncClient]:
    yield await signed_in(open_console(runs=runs, launcher=ChildLauncher()))
    for attempt in runs.glob(f"*/{ATTEMPT_FILE}"):
        told = json.loads(attempt.read_text())["process"]
        process = Process(told["pid"], told["began"])
        DetachedLauncher().stop(process)
        await until(lambda process=process: not DetachedLauncher().is_running(process))  # type: ignore[misc]


async def until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def until_state(console: httpx.AsyncClient, run: str, state: str) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        panel = (await console.get(f"/console/optimise/{run}?format=json")).json()["panel"]
        if panel["status"]["state"] == state and panel["is_active"] == (state in {"starting", "running"}):
            return dict(panel)
        assert time.monotonic() < deadline, panel
        await asyncio.sleep(0.02)


async def test_a_run_is_started_stopped_gone_on_with_and_ends(
    real: httpx.AsyncClient, open_console: OpenConsole, runs: Path
) -> None:
    assert (await start(real)).status_code == 303
    panel = await until_state(real, "intents", "running")
    assert (panel["can_stop"], panel["can_go_on"]) == (True, False)
    assert panel["status"]["share"] == 0.3

    # One at a time.
    refused = await start(real, name="other")
    assert refused.status_code == 422
    assert "intents is being worked" in refused.text
    assert not (runs / "other").exists()

    # Another console over the same folder, as after a restart of the server, knows the run and may stop it.
    second = await signed_in(open_console(runs=runs, launcher=ChildLauncher()))
    assert (await act(second, "intents", "stop")).status_code == 303
    panel = await until_state(second, "intents", "stopped")
    assert panel["can_go_on"]

    assert (await act(real, "intents", "go-on")).status_code == 303
    await until_state(real, "intents", "running")
    assert (await act(real, "intents", "go-on")).status_code == 409
    (runs / "intents" / "end").touch()
    await until_state(real, "intents", "done")
    assert (await act(real, "intents", "stop")).status_code == 303  # it is over: nothing to do
    await until_state(real, "intents", "done")


async def test_a_run_that_ends_before_its_first_word_says_why(real: httpx.AsyncClient, runs: Path) -> None:
    folder = write_run(runs, "intents", RunState.FAILED, error="an older error")
    (folder / ORDER_FILE).write_text(json.dumps(["optimize", "m", "--name=intents", f"--data={runs.parent}"]))
    (folder / "fail").touch()
    assert (await act(real, "intents", "go-on")).status_code == 303
    panel = await until_state(real, "intents", "failed")
    await until(lambda: "not there any more" in (folder / "log.txt").read_text())
    panel = await until_state(real, "intents", "failed")
    assert panel["status"]["error"] == "the file is not there any more."
    assert panel["log"][-1] == "tremplin: the file is not there any more."


async def test_a_process_steps_back_and_is_told_from_another_of_its_number(tmp_path: Path) -> None:
    launcher = DetachedLauncher()
    process = launcher.start(["sleep", "60"], tmp_path / "log.txt")
    try:
        assert launcher.is_running(process)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == NICENESS
        assert os.getsid(process.pid) == process.pid
        another = Process(process.pid, "at another time")
        assert not launcher.is_running(another)
        launcher.stop(another)
        await asyncio.sleep(0.1)
        assert launcher.is_running(process)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
    await until(lambda: not launcher.is_running(process))
    launcher.stop(process)
    assert not launcher.is_running(Process(process.pid, ""))


def test_a_command_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no-such-command"):
        DetachedLauncher().start(["/no-such-command"], tmp_path / "log.txt")
