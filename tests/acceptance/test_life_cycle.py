"""A server from its first second to its last: ready, watched, told to stop, started again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import copy_data
from tests.live_server import PATIENCE_S, LiveServer, clean_environment, run_command, start_server

ServerOn = Callable[..., LiveServer]

# Words that no log, metric or error may hold. Each is one word, so that a tokenizer's output would show it too.
CANARIES = ("Qwertzuiopcanary", "Xylophonecanary")


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


# -- starting -----------------------------------------------------------------------------------------


def test_start_says_what_a_person_needs(live_server: LiveServer) -> None:
    text = "".join(live_server.output)
    assert re.search(
        r"^Machine +.+\d+ cores \(from (affinity|cgroup quota)\), workers 1, streams 1, threads \d+$", text, re.M
    )
    assert re.search(r"^Serving +minilm@2-int8 \(embedding, [\d.]+ MB\)$", text, re.M)
    assert re.search(r"^Serving +support-desk@1-int8 \(classification, [\d.]+ MB\)$", text, re.M)
    assert re.search(r"^API key +tk_\S{43} +\(shown once, keep it\)$", text, re.M)
    assert re.search(rf"^Console +{live_server.base_url}/console/enter\?ticket=\S+ +\(opens once\)$", text, re.M)
    assert text.rstrip().endswith(f"Ready     {live_server.base_url}")


def test_not_ready_until_the_documents_are_indexed(server_on: ServerOn, tmp_path: Path) -> None:
    """The socket answers before the server is ready, and says so: 503 for probes and for work."""
    documents = tmp_path / "documents.jsonl"
    texts = ({"id": str(i), "text": f"Document {i}"} for i in range(3000))
    documents.write_text("\n".join(json.dumps(text) for text in texts))
    seen: list[tuple[int, str]] = []
    work: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            port = _port_of(tmp_path / "data-0")
            if port is None:
                time.sleep(0.02)
                continue
            try:
                answer = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=PATIENCE_S)
                work.append(httpx.post(f"http://127.0.0.1:{port}/embed", json={"inputs": "a"}).status_code)
            except httpx.TransportError:
                continue
            seen.append((answer.status_code, answer.json()["status"]))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        server = server_on("--documents", str(documents), "--no-auth")
        with server.client() as client:
            assert client.get("/readyz").json()["status"] == "ready"
            hits = client.post("/v1/search", json={"query": "document 2999", "top_k": 3}).json()["hits"]
            assert len(hits) == 3
    finally:
        done.set()
        watcher.join()
    assert (503, "starting") in seen
    assert (200, "ready") not in seen[: seen.index((503, "starting"))]
    assert 503 in work, "work was taken before the server was ready"


def _port_of(data: Path) -> int | None:
    """Return the port of the server over a data folder, read from the kernel: it has not said it yet."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if str(data).encode() not in (folder / "cmdline").read_bytes():
                continue
            inodes = {os.readlink(link).strip("socket:[]") for link in (folder / "fd").iterdir()}
            lines = (folder / "net/tcp").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            parts = line.split()
            if parts[3] == "0A" and parts[9] in inodes:  # listening
                return int(parts[1].split(":")[1], 16)
    return None


def test_the_second_start_serves_what_the_first_published(server_on: ServerOn) -> None:
    first = server_on()
    manifests = sorted(path.read_bytes() for path in first.data.rglob("manifest.json"))
    assert first.stop() == 0
    second = start_server(first.data, "--no-browser")
    try:
        with httpx.Client(base_url=second.base_url, headers=first.headers) as client:
            assert client.get("/v1/models").status_code == 200, "the first start's key is not known any more"
        assert "".join(second.output).count("API keys  ") == 1
        assert second.api_key == "", "a second key was made"
        assert "First run" not in second.logs()
        assert sorted(path.read_bytes() for path in first.data.rglob("manifest.json")) == manifests
    finally:
        second.stop()
    assert second.process.returncode == 0


def test_serve_takes_versions_by_name(published_data: Path, tmp_path: Path) -> None:
    data = copy_data(published_data, tmp_path / "data")
    server = start_server(data, "minilm@1-fp32", "--no-auth", command="serve")
    try:
        with server.client() as client:
            assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [
                "default", "minilm", "minilm@1-fp32",
            ]  # fmt: skip
            assert client.post("/embed", json={"inputs": "a"}).headers["x-tremplin-version"] == "minilm@1-fp32"
            refused = client.post("/v1/classify", json={"inputs": "a"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_model")
    finally:
        assert server.stop() == 0


# -- stopping -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_told_at_once_and_what_is_in_flight_is_answered(server_on: ServerOn, number: int) -> None:
    server = server_on(TREMPLIN_DRAIN_DELAY_S="2", TREMPLIN_THREADS="1")
    texts = [f"{i} " + "a long text that fills the model " * 12 for i in range(150)]
    with server.client() as client, ThreadPoolExecutor(1) as other:
        answer = other.submit(client.post, "/v1/embeddings", json={"input": texts})
        assert eventually(lambda: client.get("/readyz").json()["in_flight"] == 2), "the request did not arrive"
        server.process.send_signal(number)
        assert eventually(lambda: client.get("/readyz").json()["status"] == "draining")
        probe = client.get("/readyz")
        assert probe.status_code == 503
        assert probe.headers["connection"] == "close"
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/livez").status_code == 200
        in_flight = answer.result(PATIENCE_S)
        assert in_flight.status_code == 200
        assert len(in_flight.json()["data"]) == len(texts)
        assert server.process.wait(PATIENCE_S) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.base_url}/livez")
    events = [json.loads(line)["event"] for line in server.logs().splitlines()]
    assert "draining" in events
    assert "unexpected error" not in events


def test_a_second_signal_does_not_wait_for_the_load_balancer(server_on: ServerOn) -> None:
    server = server_on(TREMPLIN_DRAIN_DELAY_S="600")
    server.process.send_signal(signal.SIGTERM)
    server.wait_for_log("draining")
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE_S) == 0


def test_kill_9_loses_no_version_and_no_key(server_on: ServerOn) -> None:
    server = server_on()
    server.process.kill()
    server.process.wait()
    again = start_server(server.data, "--no-browser")
    try:
        headers = {"x-api-key": server.api_key}
        assert httpx.get(f"{again.base_url}/v1/models", headers=headers).status_code == 200
    finally:
        assert again.stop() == 0


# -- keys ---------------------------------------------------------------------------------------------


def test_keys_made_and_revoked_elsewhere_count_in_the_running_server(live_server: LiveServer) -> None:
    data = ("--data", str(live_server.data))
    made = run_command("keys", "create", "robot", *data)
    assert made.returncode == 0
    key = made.stdout.strip()
    assert re.fullmatch(r"tk_[A-Za-z0-9_-]{43}", key)

    def status() -> int:
        return httpx.get(f"{live_server.base_url}/v1/models", headers={"x-api-key": key}).status_code

    assert eventually(lambda: status() == 200)
    listed = json.loads(run_command("keys", "list", "--json", *data).stdout)
    (mine,) = [row for row in listed if row["name"] == "robot"]
    assert (mine["id"], mine["revoked_at"]) == (key[:8], None)
    assert key not in run_command("keys", "list", *data).stdout
    assert run_command("keys", "revoke", key[:8], *data).returncode == 0
    assert eventually(lambda: status() == 401)
    unknown = run_command("keys", "revoke", key[:8], *data)
    assert unknown.returncode == 3
    assert "no live key" in unknown.stderr
    stored = (live_server.data / "keys" / "keys.json").read_text()
    assert key not in stored
    assert key[8:20] not in stored


# -- metrics ------------------------------------------------------------------------------------------

EXPECTED_METRICS = {
    "tremplin_requests": {"route", "code"},
    "tremplin_request_duration_seconds": {"route", "le"},
    "tremplin_queue_duration_seconds": {"le"},
    "tremplin_tokenize_duration_seconds": set(),
    "tremplin_batch_rows": {"model", "version", "le"},
    "tremplin_batch_duration_seconds": {"model", "version", "le"},
    "tremplin_tokens": {"model", "version"},
    "tremplin_padding_tokens": {"model", "version"},
    "tremplin_batch_failures": {"model", "version"},
    "tremplin_queue_tokens": {"model", "version"},
    "tremplin_version_forced_info": {"model", "version"},
    "tremplin_build_info": {"version"},
    "process_resident_memory_bytes": set(),
}


def metrics_of(client: httpx.Client) -> dict[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}


def value(families: dict[str, Any], name: str, **labels: str) -> float:
    for family in families.values():
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return float(sample.value)
    return 0.0


def test_metrics_have_their_names_and_labels(live_server: LiveServer) -> None:
    with live_server.client() as client:
        client.post("/embed", json={"inputs": ["a", "b c d e f"]})
        families = metrics_of(client)
    for name, labels in EXPECTED_METRICS.items():
        assert name in families, name
        assert families[name].documentation
        if name != "tremplin_batch_failures":  # it has no sample before the first failure
            assert set().union(*(sample.labels for sample in families[name].samples)) == labels, name


def test_metrics_count_routes_by_their_template(live_server: LiveServer) -> None:
    with live_server.client() as client:
        before = metrics_of(client)
        client.get("/v2/models/minilm/ready")
        client.get("/v2/models/minilm/versions/2-int8/ready")
        client.get("/v1/models/minilm")
        client.post("/embed", json={"inputs": "a"})
        client.post("/embed", json={"inputs": ""})
        for name in CANARIES:
            client.get(f"/{name}")
        after = metrics_of(client)
        exposition = client.get("/metrics").text

    def grown(route: str, code: str) -> float:
        labels = {"route": route, "code": code}
        return value(after, "tremplin_requests_total", **labels) - value(
            before, "tremplin_requests_total", **labels
        )

    assert grown("/v2/models/{model}/ready", "200") == 1
    assert grown("/v2/models/{model}/versions/{version}/ready", "200") == 1
    assert grown("/v1/models/{model:path}", "200") == 1
    assert grown("/embed", "200") == 1
    assert grown("/embed", "400") == 1
    assert grown("unknown", "404") == 2
    assert not any(canary in exposition for canary in CANARIES)


def test_metrics_count_tokens_and_padding(live_server: LiveServer) -> None:
    labels = {"model": "minilm", "version": "2-int8"}
    with live_server.client() as client:
        before = metrics_of(client)
        texts = ["one", "one two three four five six"]
        tokens = [len(row) for row in client.post("/tokenize", json={"inputs": texts}).json()]
        client.post("/embed", json={"inputs": texts})
        after = metrics_of(client)
    computed = value(after, "tremplin_tokens_total", **labels) - value(before, "tremplin_tokens_total", **labels)
    padding = value(after, "tremplin_padding_tokens_total", **labels) - value(
        before, "tremplin_padding_tokens_total", **labels
    )
    assert computed == sum(tokens)
    assert padding in (0, max(tokens) * 2 - sum(tokens))
    assert value(after, "tremplin_queue_tokens", **labels) == 0


# -- logs ---------------------------------------------------------------------------------------------


def test_logs_are_json_and_hold_neither_texts_nor_keys(server_on: ServerOn) -> None:
    server = server_on(TREMPLIN_LOG_LEVEL="debug")
    said = " ".join(CANARIES)
    with server.client(headers={"x-request-id": "traced-42"}) as client:
        _say_everywhere(client, said)
    with httpx.Client(base_url=server.base_url) as stranger:
        _say_everywhere(stranger, said)
        stranger.get("/v1/models", headers={"x-api-key": f"tk_{CANARIES[0]}"})
        stranger.get("/console/enter", params={"ticket": CANARIES[1]})
        stranger.post("/console/sign-in", data={"key": CANARIES[0]}, headers={"origin": server.base_url})
        stranger.get("/console/enter", params={"ticket": server.console_ticket})
        stranger.get("/console/playground/classify", params={"text": said})
        stranger.post("/console/playground/classify", data={"text": said}, headers={"origin": server.base_url})
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.logs().splitlines()]
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
    requests = [line for line in lines if line["event"] == "request"]
    assert len(requests) > 40
    assert all({"request_id", "method", "route", "status", "ms"} <= line.keys() for line in requests)
    assert sum(line["request_id"] == "traced-42" for line in requests) > 15
    assert not [line for line in lines if line["level"] in ("error", "critical")]
    logs = server.logs().lower()
    for secret in (*CANARIES, server.api_key, server.console_ticket):
        assert secret.lower() not in logs
    assert "[unk]" not in logs


def _say_everywhere(client: httpx.Client, said: str) -> None:
    """Send a text by every route, in ways that succeed and in ways that fail."""
    infer = "/v2/models/minilm/infer"
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [said]}
    bodies: list[tuple[str, Any]] = [
        ("/v1/embeddings", {"input": said}),
        ("/v1/embeddings", {"input": said, "model": said}),
        ("/v1/embeddings", {"input": {said: said}}),
        ("/v1/embeddings", {"input": said + "\0"}),
        ("/v1/embeddings", {"input": [said] * 3000}),
        ("/embed", {"inputs": said}),
        ("/embed", {"inputs": said * 2000}),
        ("/", {"inputs": said}),
        ("/", {"inputs": {"source_sentence": said, "sentences": [said]}}),
        ("/similarity", {"inputs": {"source_sentence": said, "sentences": [said, ""]}}),
        ("/predict", {"inputs": said}),
        ("/tokenize", {"inputs": said}),
        ("/v1/classify", {"inputs": said}),
        ("/v1/classify", {"inputs": said, said.split(maxsplit=1)[0]: said}),
        ("/v1/similarity", {"source": said, "sentences": [said]}),
        ("/v1/search", {"query": said}),
        ("/v1/zero-shot", {"text": said, "labels": [{"label": said}, {"label": "b", "description": said}]}),
        ("/v1/explain", {"text": said}),
        ("/v1/explain", {"text": said, "label": said}),
        (infer, {"inputs": [tensor], "id": said}),
        (infer, {"inputs": [tensor | {"shape": [2]}]}),
        (infer, {"inputs": [tensor], "outputs": [{"name": said}]}),
        (f"/v2/models/{said}/infer", {"inputs": [tensor]}),
    ]
    for path, body in bodies:
        client.post(path, json=body)
    client.post("/v1/embeddings", content=b'{"input": "' + said.encode())
    client.get(f"/{said}")
    client.get("/v1/models", params={"q": said}, headers={"user-agent": said, "referer": said})
    client.put("/embed", content=said.encode())
    client.get("/livez", headers={"x-request-id": f"not harmless: {said}"})


def test_a_callers_request_id_is_kept_when_it_is_harmless(live_server: LiveServer) -> None:
    with live_server.client() as client:
        for given, is_kept in (
            ("abc-1.2_3", True), ("a" * 64, True), ("a" * 65, False), ("a b", False), ('"}{', False), ("", False),
        ):  # fmt: skip
            answered = client.post("/embed", json={"inputs": "a"}, headers={"x-request-id": given})
            assert (answered.headers["x-request-id"] == given) is is_kept
        ids = {client.get("/livez").headers["x-request-id"] for _ in range(50)}
    assert len(ids) == 50


# -- a forced version ---------------------------------------------------------------------------------


def test_a_version_that_misses_its_bound_is_served_only_by_force_and_says_so(tmp_path: Path) -> None:
    from tests import tiny_models
    from tremplin.registry.store import Registry

    data = tmp_path / "data"
    manifest = tiny_models.publish(Registry(data / "registry"), tmp_path / "files", quality=tiny_models.BROKEN)
    refused = run_command("serve", "tiny", "--data", str(data), "--port", "0", "--threads", "1")
    assert refused.returncode == 5
    assert "cosine_mean >= 0.99 is not proven: measured 0.9500 [0.9400, 0.9600], n=9" in refused.stderr
    assert f"--force {manifest.ref}" in refused.stderr

    server = start_server(data, "tiny", "--force", manifest.ref, "--threads", "1", "--no-auth", command="serve")
    try:
        # A terminal's width breaks the line where it must.
        line = " ".join("".join(server.output).split())
        assert "FORCED: cosine_mean >= 0.99 is not proven: measured 0.9500 [0.9400, 0.9600], n=9" in line
        with server.client() as client:
            (version,) = client.get("/info").json()["versions"]
            assert version["forced"] is True
            assert version["broken_bounds"] == list(manifest.quality.broken_bounds())
            assert value(metrics_of(client), "tremplin_version_forced_info", model="tiny", version="1-fp32") == 1
            page = client.get(
                "/console/models/tiny/1-fp32", params={"format": "json"}, headers={"authorization": "Bearer x"}
            )
            assert page.status_code == 200
            assert "is not proven" in page.text
    finally:
        assert server.stop() == 0


def test_a_proven_version_is_not_said_to_be_forced(live_server: LiveServer) -> None:
    with live_server.client() as client:
        assert [version["forced"] for version in client.get("/info").json()["versions"]] == [False, False]
        labels = {"model": "minilm", "version": "2-int8"}
        assert value(metrics_of(client), "tremplin_version_forced_info", **labels) == 0
    assert "FORCED" not in "".join(live_server.output)


# -- the first run --------------------------------------------------------------------------------------


def test_an_interrupted_first_run_goes_on_where_it_stopped(published_data: Path, tmp_path: Path) -> None:
    """The main job, from an empty folder: killed after the import, started again, ready with all it promises."""
    data = tmp_path / "data"
    with (tmp_path / "killed.stderr").open("wb") as errors:
        command = [sys.executable, "-m", "tremplin", "up", "--data", str(data), "--port", "0", "--no-browser"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=clean_environment())
        assert eventually((data / "registry/models/minilm/1-fp32/speed").is_dir)
        process.kill()
        process.wait()
    imported = (data / "registry/models/minilm/1-fp32/manifest.json").read_bytes()

    server = start_server(data, "--no-browser")
    try:
        assert "First run: optimise" in server.logs()
        assert "First run: import" not in server.logs(), "the import was done twice"
        with server.client() as client:
            served = [version["version"] for version in client.get("/info").json()["versions"]]
            assert served == _services(published_data)
            assert client.post("/v1/search", json={"query": "forgot my password"}).json()["hits"]
    finally:
        assert server.stop() == 0
    assert (data / "registry/models/minilm/1-fp32/manifest.json").read_bytes() == imported
    assert sorted(path.name for path in (data / "registry/models").glob("*/*")) == sorted(
        path.name for path in (published_data / "registry/models").glob("*/*")
    )


def _services(data: Path) -> list[str]:
    return [service["version"] for service in json.loads((data / "services.json").read_text())]
