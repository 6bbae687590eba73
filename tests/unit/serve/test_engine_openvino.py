"""What is OpenVINO's own: its telemetry; and that an engine's package may be missing."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests import tiny_models

REPOSITORY = Path(__file__).resolve().parents[3]
openvino_is_here = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None,
    reason="openvino is not installed: pip install 'tremplin[openvino]'",
)

# Audit hooks see every socket and every look-up that Python does, in forked processes too.
LISTEN = """
import os, sys
heard = os.open(sys.argv[1], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
sys.addaudithook(lambda event, _: os.write(heard, f"{event}\\n".encode()) if event.startswith("socket.") else None)
"""
LOAD_AND_RUN = """
from pathlib import Path
from tremplin.serve.engine import pad
from tremplin.serve.engines.openvino import OpenVinoEngine
engine = OpenVinoEngine(Path(sys.argv[2]), threads=1)
engine.load()
engine.warm_up()
engine.run(pad([[1, 2, 3]]))
from openvino.tools import ovc  # the part that sends
"""


class Proxy:
    """Stands where the way to the network would be, and writes down who asks for what."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            with caller:
                self.asked.append(caller.recv(4096).decode("latin-1").partition("\r\n")[0])

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def listen(code: str, folder: Path, *arguments: str) -> tuple[list[str], list[str]]:
    """Run code in a process whose home is empty, where nobody has said no, and whose network is a proxy of ours.

    Returns what it asked the proxy for and what Python saw of sockets.
    """
    home, heard = folder / "home", folder / "heard.txt"
    home.mkdir()
    proxy = Proxy()
    silenced = ("CI", "TF_BUILD", "JENKINS_URL", "no_proxy", "NO_PROXY")
    environment = {name: value for name, value in os.environ.items() if name not in silenced}
    try:
        subprocess.run(
            [sys.executable, "-c", LISTEN + code, str(heard), *arguments],
            env=environment | {"HOME": str(home), "http_proxy": proxy.address, "https_proxy": proxy.address},
            cwd=REPOSITORY, capture_output=True, timeout=120, check=True,
        )  # fmt: skip
    finally:
        proxy.stop()
    return proxy.asked, heard.read_text().splitlines()


@openvino_is_here
def test_nothing_is_sent_or_looked_up(tmp_path: Path) -> None:
    graph = tiny_models.write_encoder(tmp_path / "model.onnx")
    assert listen(LOAD_AND_RUN, tmp_path, str(graph)) == ([], [])
    assert not list((tmp_path / "home").iterdir()), "it left an identity in the home folder"


@openvino_is_here
def test_the_proxy_hears_what_openvino_sends_by_itself(tmp_path: Path) -> None:
    """Else the test above would prove nothing: imported as it is, openvino calls Google Analytics."""
    asked, heard = listen("import openvino\n", tmp_path)
    assert asked
    assert all(line.startswith("CONNECT www.google-analytics.com:443") for line in asked)
    assert "socket.connect" in heard


@pytest.mark.parametrize(
    ("package", "engine"), [("openvino", "OpenVinoEngine"), ("ctranslate2", "Ctranslate2Engine")]
)
def test_a_missing_package_is_named_with_the_command(package: str, engine: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from pathlib import Path\nfrom tremplin.errors import MissingExtra\n"
        f"from tremplin.serve.engines.{package} import {engine}\n"
        f"try:\n    {engine}(Path('x'), threads=1)\nexcept MissingExtra as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert f"pip install 'tremplin[{package}]'" in done.stdout
