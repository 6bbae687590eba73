"""The Hub is asked only for a Hub id; everything else stays on this machine."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tremplin.errors import IncompleteSource, UnsafeWeights
from tremplin.optimize.importing import hub, import_model
from tremplin.optimize.importing.checkpoint import open_checkpoint

huggingface_hub = pytest.importorskip("huggingface_hub", reason="the Hub's client comes with an extra")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """Make every look-up of a host fail, and remember that it was tried."""
    tried: list[tuple[object, ...]] = []

    def refuse(*arguments: object, **_: object) -> None:
        tried.append(arguments)
        raise OSError("the network is off in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tried


def test_a_local_folder_never_touches_the_network(
    classifier: Path, tmp_path: Path, no_network: list[tuple[object, ...]]
) -> None:
    import_model(classifier, tmp_path / "imported", reference="numpy")
    assert no_network == []


def test_a_missing_path_is_not_looked_up(no_network: list[tuple[object, ...]]) -> None:
    for source in ("/nowhere/model", "./org/model", "../org/model", "a/b/c"):
        with pytest.raises(IncompleteSource, match="does not exist"):
            open_checkpoint(source)
    with pytest.raises(IncompleteSource, match="does not exist"):
        open_checkpoint(Path("org/model"))
    assert no_network == []


def test_offline_says_what_to_do(no_network: list[tuple[object, ...]]) -> None:
    with pytest.raises(IncompleteSource, match=r"could not be fetched.*local folder"):
        open_checkpoint("tremplin-tests/never-published@main")


class FakeApi:
    """Stands for the Hub: one repository with the files given."""

    files: tuple[str, ...] = ()
    asked: list[tuple[str, str | None]]

    def model_info(self, name: str, revision: str | None = None) -> object:
        self.asked.append((name, revision))
        return SimpleNamespace(sha="c0ffee", siblings=[SimpleNamespace(rfilename=file) for file in self.files])


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch, classifier: Path) -> type[FakeApi]:
    FakeApi.asked, FakeApi.files = [], ("config.json", "model.safetensors", "tokenizer.json")

    def snapshot(name: str, **options: Any) -> str:
        assert options["revision"] == "c0ffee"
        assert "*.bin" not in options["allow_patterns"]
        return str(classifier)

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return FakeApi


@pytest.mark.parametrize(
    ("source", "revision", "asked"),
    [("org/name", None, None), ("org/name@v1.2", None, "v1.2"), ("org/name", "abc", "abc")],
)
def test_a_hub_id_is_fetched_at_its_commit(
    source: str, revision: str | None, asked: str | None, fake_hub: type[FakeApi], tmp_path: Path
) -> None:
    model = import_model(source, tmp_path / "imported", revision=revision, reference="numpy")
    assert fake_hub.asked == [("org/name", asked)]
    assert model.revision == "c0ffee"
    assert model.source == source


def test_a_repository_of_pickles_is_refused_before_download(fake_hub: type[FakeApi]) -> None:
    fake_hub.files = ("config.json", "pytorch_model.bin")
    with pytest.raises(UnsafeWeights, match=r"pytorch_model\.bin.*Nothing was downloaded"):
        open_checkpoint("org/name")


def test_only_needed_files_are_asked_for() -> None:
    from fnmatch import fnmatch

    needed = (
        "config.json",
        "model-00001-of-00002.safetensors",
        "1_Pooling/config.json",
        "2_Dense/model.safetensors",
    )
    left = (
        "pytorch_model.bin",
        "onnx/model.onnx",
        "openvino/config.json",
        "2_Dense/pytorch_model.bin",
        "tf_model.h5",
    )
    assert all(any(fnmatch(name, pattern) for pattern in hub.NEEDED) for name in needed)
    assert not any(fnmatch(name, pattern) for name in left for pattern in hub.NEEDED)
