"""The commands as a shell sees them: exit codes, messages that say what to do, JSON that parses."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest

from tests import tiny_models
from tests.conftest import copy_data
from tests.live_server import run_command
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE, Manifest
from tremplin.registry.services import Service, write_services
from tremplin.registry.store import Registry
from tremplin.registry.task import Task

Completed = subprocess.CompletedProcess[str]


def assert_fails(done: Completed, code: int, *said: str) -> None:
    """The command ended with a code and one sentence on standard error, and no stack trace."""
    assert done.returncode == code, done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("tremplin: ")
    for text in said:
        assert text in last, last


# -- what is asked on the command line ----------------------------------------------------------------


def test_help_lists_the_verbs_in_the_course_of_a_model() -> None:
    done = run_command("--help")
    assert done.returncode == 0
    verbs = re.findall(r"^\W+([a-z]+)  +[A-Z]", done.stdout, re.M)
    assert verbs == ["up", "import", "train", "optimize", "report", "export", "serve", "bench", "doctor", "keys"]


@pytest.mark.parametrize(
    "command", ["up", "import", "train", "optimize", "report", "export", "serve", "bench", "doctor", "keys create"]
)
def test_help_of_each_command_says_what_it_does(command: str) -> None:
    done = run_command(*command.split(), "--help")
    assert done.returncode == 0
    assert "--data" in done.stdout
    assert ("--json" in done.stdout) is (command not in ("up", "serve"))


def test_version_is_the_packages() -> None:
    import tremplin

    assert run_command("--version").stdout.strip() == tremplin.__version__


def test_a_wrong_option_is_the_command_lines_own_error() -> None:
    done = run_command("up", "--nope")
    assert done.returncode == 2
    assert "--nope" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (("up", "--port", "70000"), {}, ("'port'", "less than or equal to 65535", "TREMPLIN_PORT")),
        (("up",), {"TREMPLIN_PORT": "abc"}, ("'port'", "valid integer")),
        (("up", "--host", "0.0.0.0", "--no-auth"), {}, ("0.0.0.0", "loopback", "--no-auth")),
        (("serve",), {"TREMPLIN_AUTH": "false", "TREMPLIN_HOST": "192.0.2.1"}, ("loopback",)),
    ],
)
def test_settings_that_cannot_be_used(
    tmp_path: Path, arguments: tuple[str, ...], environment: dict[str, str], said: tuple[str, ...]
) -> None:
    assert_fails(run_command(*arguments, "--data", str(tmp_path / "data"), **environment), 3, *said)
    assert not (tmp_path / "data").exists(), "something was written before the settings were read"


# -- the machine's fault ---------------------------------------------------------------------------------


def test_a_port_in_use_is_said_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_command("up", "--port", str(port), "--data", str(tmp_path / "data"))
    assert_fails(done, 7, f"Port {port} on 127.0.0.1 is in use", f"--port {port + 1}", "--port 0")
    assert "First run" not in done.stderr, "half a minute of work was done first"


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])
def test_an_address_that_is_not_ours(tmp_path: Path, host: str) -> None:
    assert_fails(run_command("up", "--host", host, "--data", str(tmp_path / "data")), 7, host, "--host")


@pytest.mark.parametrize("command", ["up --port 0", "serve --port 0", "report", "keys list", "keys create"])
def test_a_data_folder_that_is_a_file(tmp_path: Path, command: str) -> None:
    data = tmp_path / "file"
    data.write_text("here already")
    assert_fails(run_command(*command.split(), "--data", str(data)), 7, str(data), "--data")
    assert data.read_text() == "here already"


@pytest.mark.parametrize("command", ["up --port 0", "keys create"])
def test_a_data_folder_nobody_may_write(tmp_path: Path, command: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o555)
    place = folder / "data"
    if os.geteuid() == 0:  # root may write everywhere but here
        place = Path("/proc/tremplin-data")
    assert_fails(run_command(*command.split(), "--data", str(place)), 7, str(place), "--data")


def test_a_report_that_cannot_be_written(tiny_data: Path, tmp_path: Path) -> None:
    target = tmp_path / "a-file"
    target.touch()
    done = run_command("report", "tiny", "--html", str(target / "page.html"), "--data", str(tiny_data))
    assert_fails(done, 1, str(target), "cannot be used")


# -- versions that cannot be served ------------------------------------------------------------------------


@pytest.fixture
def tiny_data(tmp_path: Path) -> Path:
    """A data folder with a tiny model, declared as the service of embeddings."""
    data = tmp_path / "data"
    manifest = tiny_models.publish(Registry(data / "registry"), tmp_path / "files")
    write_services(data / "services.json", [Service("embed", Task.EMBEDDING, manifest.ref)])
    return data


def serve(data: Path, *arguments: str) -> Completed:
    return run_command("serve", *arguments, "--port", "0", "--threads", "1", "--data", str(data))


def artefact(data: Path, name: str) -> Path:
    registry = Registry(data / "registry")
    return registry.path(registry.latest("tiny"), name, verify=False)


@pytest.mark.parametrize(
    ("name", "harm"),
    [(MODEL_FILE, "bit"), (TOKENIZER_FILE, "truncated"), (MODEL_FILE, "empty"), (TOKENIZER_FILE, "missing")],
)
def test_a_damaged_file_of_the_registry(tiny_data: Path, name: str, harm: str) -> None:
    path = artefact(tiny_data, name)
    content = bytearray(path.read_bytes())
    if harm == "missing":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes({"bit": content, "truncated": content[:-1], "empty": b""}[harm])
    done = serve(tiny_data)
    assert_fails(done, 1, f"{name} of tiny@1-fp32", "missing" if harm == "missing" else "damaged")
    doctor = run_command("doctor", "--json", "--data", str(tiny_data))
    assert doctor.returncode == 1
    assert [finding["subject"] for finding in json.loads(doctor.stdout) if not finding["is_fine"]] == ["registry"]


def test_an_edited_manifest(tiny_data: Path) -> None:
    path = tiny_data / "registry/models/tiny/1-fp32/manifest.json"
    path.write_text(path.read_text().replace('"low": 1.0', '"low": 2.0'))
    assert_fails(serve(tiny_data), 1, "tiny@1-fp32", "differs from what was signed")


@pytest.mark.parametrize("content", [b"", b"not a graph", "half"])
def test_a_graph_that_was_broken_before_it_was_published(tmp_path: Path, content: bytes | str) -> None:
    whole = tiny_models.write_encoder(tmp_path / "whole.onnx").read_bytes()
    publish_files(tmp_path, whole[: len(whole) // 2] if isinstance(content, str) else content)
    assert_fails(serve(tmp_path / "data", "tiny"), 1, "cannot open the graph", "publish the version again")


def test_a_tokenizer_that_does_not_fit_its_model(tmp_path: Path) -> None:
    words = [f"word{i}" for i in range(20)]
    publish_files(tmp_path, tokenizer=tiny_models.write_tokenizer(tmp_path / "large.json", extra_words=words))
    assert_fails(serve(tmp_path / "data", "tiny"), 4, "ids up to 28", "9 rows")


@pytest.mark.parametrize("content", ["", '{"version": "1.0"}'])
def test_a_tokenizer_that_is_none(tmp_path: Path, content: str) -> None:
    tokenizer = tmp_path / "none.json"
    tokenizer.write_text(content)
    publish_files(tmp_path, tokenizer=tokenizer)
    assert_fails(serve(tmp_path / "data", "tiny"), 4, "tokenizer")


def publish_files(tmp_path: Path, graph: bytes | None = None, tokenizer: Path | None = None) -> Manifest:
    """Publish a graph and a tokenizer as they are, with evidence of speed so that nothing is measured."""
    from tremplin.machine import read_machine

    path = tiny_models.write_encoder(tmp_path / "graph.onnx")
    if graph is not None:
        path.write_bytes(graph)
    registry = Registry(tmp_path / "data" / "registry")
    files = {
        MODEL_FILE: path,
        TOKENIZER_FILE: tokenizer or tiny_models.write_tokenizer(tmp_path / "tokenizer.json"),
    }
    manifest = registry.publish(tiny_models.manifest_of(), files)
    registry.record_speed(manifest, tiny_models.speed_on(read_machine()))
    return manifest


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nope",), 3, "known models: tiny"),
        (("tiny@9-int8",), 3, "known versions: 1-fp32"),
        (("../../etc@passwd",), 3, "not a version's name"),
        (("--documents", "/no/such/file"), 3, "cannot be read"),
    ],
)
def test_what_cannot_be_found(tiny_data: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    assert_fails(serve(tiny_data, *arguments), code, said)


def test_an_empty_folder_has_nothing_to_serve(tmp_path: Path) -> None:
    assert_fails(serve(tmp_path / "data"), 7, "No service is declared", "tremplin up")


@pytest.mark.parametrize(
    "content", ["", "{", '[{"name": "a"}]', '[{"name": "a", "task": "cooking", "version": "b"}]']
)
def test_a_damaged_list_of_services(tiny_data: Path, content: str) -> None:
    (tiny_data / "services.json").write_text(content)
    assert_fails(serve(tiny_data), 1, "services.json", "Delete it")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('{"id": 1}', "line 1"),
        ('{"id": "a", "text": "fine"}\n\nnot JSON', "line 3"),
        ('["id", "text"]', "line 1"),
        ('{"id": "a", "text": "a \\u0000"}', "NUL"),
    ],
)
def test_documents_that_cannot_be_searched(tiny_data: Path, tmp_path: Path, lines: str, said: str) -> None:
    documents = tmp_path / "documents.jsonl"
    documents.write_text(lines)
    assert_fails(serve(tiny_data, "--documents", str(documents)), 3, said)


# -- JSON ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(published_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(copy_data(published_data, tmp_path_factory.mktemp("commands") / "data"))


def json_of(*arguments: str) -> object:
    done = run_command(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "a script would have to look for the JSON among other lines"
    return json.loads(done.stdout)


def test_report_as_json_holds_every_version_with_its_evidence(data: str) -> None:
    found = json_of("report", "minilm", "--data", data)
    text = json.dumps(found)
    for wanted in ("1-fp32", "2-int8", "cosine_mean", "p50_ms", "cpu", "low", "high"):
        assert wanted in text


def test_doctor_as_json_finds_this_machine_fit(data: str) -> None:
    findings = json_of("doctor", "--data", data)
    assert isinstance(findings, list)
    assert all(set(finding) == {"subject", "is_fine", "detail"} for finding in findings)
    subjects = [finding["subject"] for finding in findings]
    assert {"machine", "onnxruntime", "bundled model", "minilm@1-fp32", "support-desk@1-int8"} <= set(subjects)
    assert all(finding["is_fine"] for finding in findings)


def test_bench_as_json_measures_and_keeps(data: str) -> None:
    before = list(Path(data).glob("registry/models/minilm/2-int8/speed/*"))
    found = json_of("bench", "minilm@2-int8", "--quick", "--threads", "1", "--data", data)
    assert isinstance(found, dict)
    assert found["threads"] == 1
    assert 0 < found["p50_ms"] <= found["p99_ms"]
    assert found["machine"]["cores"] >= 1
    assert all(row["low"] <= row["texts_per_s"] <= row["high"] for row in found["throughput"])
    after = list(Path(data).glob("registry/models/minilm/2-int8/speed/*"))
    assert {path.name for path in after} >= {path.name for path in before} | {f"{_machine()}-onnxruntime-1t.json"}


def test_keys_as_json(tmp_path: Path) -> None:
    folder = str(tmp_path / "data")
    made = json_of("keys", "create", "robot", "--data", folder)
    assert isinstance(made, dict)
    assert made["name"] == "robot"
    listed = json_of("keys", "list", "--data", folder)
    assert isinstance(listed, list)
    assert [(row["id"], row["name"], row["revoked_at"]) for row in listed] == [(made["key"][:8], "robot", None)]


def test_a_report_of_nothing_says_what_to_do(tmp_path: Path) -> None:
    assert_fails(run_command("report", "--data", str(tmp_path / "data")), 3, "no model", "tremplin up")


def _machine() -> str:
    from tremplin.machine import read_machine

    return read_machine().id
