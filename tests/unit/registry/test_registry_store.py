"""The registry: a version is there whole or not at all, and what was published is what is read."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny_models
from tremplin.errors import DamagedArtefact, NotServable, PublishFailed, UnknownVersion
from tremplin.machine import read_machine
from tremplin.registry.manifest import Manifest, dump_manifest, is_name, load_manifest
from tremplin.registry.passport import Bound, Metric
from tremplin.registry.store import ABANDONED_AFTER_S, Registry, check_servable


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    made = {"model.onnx": tmp_path / "source.onnx", "tokenizer.json": tmp_path / "source.json"}
    made["model.onnx"].write_bytes(random.Random(0).randbytes(100_000))
    made["tokenizer.json"].write_text("{}")
    return made


def everything(folder: Path) -> dict[str, bytes]:
    """Return each file below a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_whole(registry: Registry) -> list[str]:
    """Every version that can be seen can be read, each file as it was published. Returns their names."""
    seen = []
    for model in registry.models():
        for manifest in registry.versions(model):
            for artefact in manifest.artefacts:
                registry.path(manifest, artefact.name)
            seen.append(manifest.ref)
    return sorted(seen)


# -- publishing and reading ------------------------------------------------------------------------------


def test_what_is_published_is_what_is_read(registry: Registry, files: dict[str, Path]) -> None:
    published = registry.publish(tiny_models.manifest_of(), files)
    again = Registry(registry.root)
    assert again.get("tiny", "1-fp32") == published == again.latest("tiny") == again.resolve("tiny@1-fp32")
    assert again.models() == ["tiny"]
    assert again.versions("tiny") == [published]
    for name, source in files.items():
        assert again.path(published, name).read_bytes() == source.read_bytes()
    assert published.size_bytes == sum(path.stat().st_size for path in files.values())
    assert list((registry.root / "staging").iterdir()) == []


def test_versions_are_numbered_and_listed_in_order(registry: Registry, files: dict[str, Path]) -> None:
    assert registry.next_version("tiny", "fp32") == "1-fp32"
    for number in (2, 10, 1, 9):
        registry.publish(tiny_models.manifest_of(version=f"{number}-int8"), files)
    assert [manifest.version for manifest in registry.versions("tiny")] == [
        "1-int8",
        "2-int8",
        "9-int8",
        "10-int8",
    ]
    assert registry.latest("tiny").version == "10-int8"
    assert registry.next_version("tiny", "fp32") == "11-fp32"


def test_equal_files_are_kept_once(registry: Registry, files: dict[str, Path]) -> None:
    for version in ("1-fp32", "2-fp32"):
        registry.publish(tiny_models.manifest_of(version=version), files)
    assert len(list((registry.root / "objects").rglob("*/*"))) == 2


def test_publishing_again_repairs_a_damaged_file(registry: Registry, files: dict[str, Path]) -> None:
    manifest = registry.publish(tiny_models.manifest_of(), files)
    path = registry.path(manifest, "model.onnx")
    path.write_bytes(b"damaged")
    with pytest.raises(DamagedArtefact):
        registry.path(manifest, "model.onnx")
    registry.publish(tiny_models.manifest_of(version="2-fp32"), files)
    assert registry.path(manifest, "model.onnx").read_bytes() == files["model.onnx"].read_bytes()


names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,10}[a-z0-9]", fullmatch=True)
numbers = st.floats(allow_nan=False, allow_infinity=False)
metrics = st.builds(Metric, st.text(max_size=20), numbers, numbers, numbers, st.integers(0, 10**9))
bounds = st.builds(Bound, st.text(max_size=20), st.none() | numbers, st.none() | numbers)
manifests = st.builds(
    lambda model, version, found, promised, notes: replace(
        tiny_models.manifest_of(model, version),
        quality=replace(tiny_models.PROVEN, metrics=tuple(found), bounds=tuple(promised)),
        origin=replace(tiny_models.manifest_of().origin, notes=tuple(notes)),
    ),
    names,
    names,
    st.lists(metrics, max_size=3),
    st.lists(bounds, max_size=3),
    st.lists(st.text(max_size=30), max_size=3),
)


@given(manifests)
def test_a_manifest_survives_being_written(manifest: Manifest) -> None:
    written = dump_manifest(manifest)
    assert load_manifest(written) == manifest
    assert dump_manifest(load_manifest(written)) == written


# -- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "/etc",
        "A",
        "é",
        "a b",
        "-a",
        "a-",
        ".a",
        "a.",
        "a\n",
        "a\0",
        "con:",
        "a" * 65,
    ],
)
def test_names_that_could_leave_the_folder_are_refused(
    registry: Registry, files: dict[str, Path], name: str
) -> None:
    assert not is_name(name)
    for model, version in ((name, "1-fp32"), ("tiny", name)):
        with pytest.raises(PublishFailed, match="cannot name a version"):
            registry.publish(tiny_models.manifest_of(model, version), files)
        with pytest.raises(UnknownVersion):
            registry.get(model, version)
    assert registry.versions(name) == []
    assert registry.models() == []


def test_a_version_never_changes(registry: Registry, files: dict[str, Path]) -> None:
    registry.publish(tiny_models.manifest_of(), files)
    before = everything(registry.root)
    files["model.onnx"].write_bytes(b"other")
    with pytest.raises(PublishFailed, match="exists already"):
        registry.publish(tiny_models.manifest_of(), files)
    assert everything(registry.root) == before


def test_a_source_that_is_not_there_publishes_nothing(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(PublishFailed, match="Nothing was published"):
        registry.publish(tiny_models.manifest_of(), {"model.onnx": tmp_path / "nowhere"})
    assert registry.models() == []
    assert list((registry.root / "staging").iterdir()) == []


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("nope", "known models: tiny"),
        ("tiny@2-int8", "known versions: 1-fp32"),
        ("tiny@", "x"),
        ("@1-fp32", "not a version's name"),
        ("tiny@1-fp32@x", "not a version's name"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(
    registry: Registry, files: dict[str, Path], ref: str, said: str
) -> None:
    registry.publish(tiny_models.manifest_of(), files)
    if ref == "tiny@":
        assert registry.resolve(ref).version == "1-fp32"
        return
    with pytest.raises(UnknownVersion, match=said):
        registry.resolve(ref)


# -- what was tampered with -----------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["bit", "shorter", "longer", "missing"])
def test_damage_to_a_file_is_noticed(registry: Registry, files: dict[str, Path], harm: str) -> None:
    manifest = registry.publish(tiny_models.manifest_of(), files)
    path = registry.path(manifest, "model.onnx")
    content = bytearray(path.read_bytes())
    if harm == "missing":
        path.unlink()
    else:
        flipped = bytearray(content)
        flipped[len(flipped) // 2] ^= 0x10
        path.write_bytes({"bit": flipped, "shorter": content[:-1], "longer": content + b"\0"}[harm])
    with pytest.raises(DamagedArtefact, match=r"model\.onnx of tiny@1-fp32 is (damaged|missing)"):
        registry.path(manifest, "model.onnx")
    assert registry.path(manifest, "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("file", "edit"),
    [
        ("manifest.json", lambda text: text.replace('"low": 1.0', '"low": 9.0')),
        ("manifest.json", lambda text: text + " "),
        ("manifest.json", lambda text: ""),
        ("manifest.sig", lambda text: text[:-1] + ("0" if text[-1] != "0" else "1")),
        ("manifest.sig", lambda text: ""),
        ("manifest.sig", lambda text: text + "\n"),
    ],
)
def test_an_edited_manifest_is_noticed(
    registry: Registry, files: dict[str, Path], file: str, edit: Callable[[str], str]
) -> None:
    registry.publish(tiny_models.manifest_of(), files)
    path = registry.root / "models/tiny/1-fp32" / file
    assert edit(path.read_text()) != path.read_text()
    path.write_text(edit(path.read_text()))
    with pytest.raises(DamagedArtefact, match="differs from what was signed"):
        registry.get("tiny", "1-fp32")


def test_a_version_copied_under_another_name_is_noticed(registry: Registry, files: dict[str, Path]) -> None:
    registry.publish(tiny_models.manifest_of(), files)
    shutil.copytree(registry.root / "models/tiny/1-fp32", registry.root / "models/tiny/2-int8")
    with pytest.raises(DamagedArtefact, match="holds the manifest of tiny@1-fp32"):
        registry.get("tiny", "2-int8")


def test_a_manifest_of_another_release_is_said_to_be(registry: Registry, files: dict[str, Path]) -> None:
    registry.publish(tiny_models.manifest_of(), files)
    folder = registry.root / "models/tiny/1-fp32"
    payload = (folder / "manifest.json").read_bytes().replace(b'"precision"', b'"exactness"')
    (folder / "manifest.json").write_bytes(payload)
    (folder / "manifest.sig").write_text(registry._sign(payload))
    with pytest.raises(DamagedArtefact, match="another release"):
        registry.get("tiny", "1-fp32")


def test_another_registrys_version_is_not_trusted(
    registry: Registry, files: dict[str, Path], tmp_path: Path
) -> None:
    registry.publish(tiny_models.manifest_of(), files)
    other = Registry(tmp_path / "other")
    shutil.copytree(registry.root / "models", other.root / "models", dirs_exist_ok=True)
    with pytest.raises(DamagedArtefact, match="signed"):
        other.get("tiny", "1-fp32")


# -- speed ------------------------------------------------------------------------------------------------


def test_speed_is_kept_for_each_machine_and_thread_budget(registry: Registry, files: dict[str, Path]) -> None:
    manifest = registry.publish(tiny_models.manifest_of(), files)
    here = read_machine()
    there = replace(here, cores=here.cores + 1)
    assert registry.speed(manifest, here.id, 1) is None
    for machine, threads in ((here, 1), (here, 2), (there, 1), (here, 1)):
        registry.record_speed(manifest, tiny_models.speed_on(machine, threads))
    assert registry.speed(manifest, here.id, 2) == tiny_models.speed_on(here, 2)
    assert registry.speed(manifest, there.id, 2) is None
    assert len(registry.speeds(manifest)) == 3
    assert registry.get("tiny", "1-fp32") == manifest, "what is learnt later is not part of the manifest"


def test_a_speed_nobody_can_read_is_measured_again(registry: Registry, files: dict[str, Path]) -> None:
    manifest = registry.publish(tiny_models.manifest_of(), files)
    registry.record_speed(manifest, tiny_models.speed_on(read_machine()))
    (path,) = (registry.root / "models/tiny/1-fp32/speed").iterdir()
    path.write_text("{}")
    assert registry.speed(manifest, read_machine().id, 1) is None
    assert registry.speeds(manifest) == []


# -- full disks and crashes -----------------------------------------------------------------------------------


class Faults:
    """Fails the n-th time something is about to be made durable."""

    def __init__(self, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for name in ("fsync", "rename", "replace"):
            monkeypatch.setattr(os, name, self._failing(getattr(os, name), at))

    def _failing(self, real: Callable[..., None], at: int) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            self.count += 1
            if self.count == at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(*arguments)

        return call


def test_a_disk_full_at_any_moment_publishes_nothing(registry: Registry, files: dict[str, Path]) -> None:
    registry.publish(tiny_models.manifest_of(version="1-fp32"), files)
    files["model.onnx"].write_bytes(random.Random(1).randbytes(50_000))
    moment, happened = 0, True
    while happened:
        moment += 1
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(moment, patch)
            try:
                registry.publish(tiny_models.manifest_of(version="2-int8"), files)
            except PublishFailed as failure:
                message = str(failure)
        happened = faults.count >= moment
        if happened and "tiny@2-int8" not in assert_whole(registry):
            assert "the disk is full" in message
        assert list((registry.root / "staging").iterdir()) == []
        if "tiny@2-int8" in assert_whole(registry):
            break
    assert moment > 8, "the faults did not reach the code"
    assert assert_whole(registry) == ["tiny@1-fp32", "tiny@2-int8"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB, when we may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("a file system of its own can only be mounted by root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_really_full_disk_publishes_nothing(small_disk: Path, files: dict[str, Path]) -> None:
    registry = Registry(small_disk / "registry")
    registry.publish(tiny_models.manifest_of(version="1-fp32"), files)
    files["model.onnx"].write_bytes(random.Random(1).randbytes(3_000_000))
    with pytest.raises(PublishFailed, match="the disk is full"):
        registry.publish(tiny_models.manifest_of(version="2-fp32"), files)
    assert assert_whole(registry) == ["tiny@1-fp32"]
    assert list((registry.root / "staging").iterdir()) == []
    files["model.onnx"].write_bytes(random.Random(1).randbytes(500_000))
    registry.publish(tiny_models.manifest_of(version="2-fp32"), files)
    assert assert_whole(registry) == ["tiny@1-fp32", "tiny@2-fp32"]


PUBLISHER = """
import itertools, random, sys
from pathlib import Path
from tremplin.registry.manifest import Interface, Manifest, Origin
from tremplin.registry.passport import Quality
from tremplin.registry.store import Registry
from tremplin.registry.task import Task

registry, source = Registry(Path(sys.argv[1])), Path(sys.argv[2])
print("started", flush=True)
for _ in itertools.count():
    source.write_bytes(random.randbytes(2_000_000))
    version = registry.next_version("tiny", "fp32")
    quality = Quality("itself", "none", "", 0, (), ())
    interface = Interface(Task.EMBEDDING, 16, 9, embedding_dim=4)
    manifest = Manifest("tiny", version, "fp32", interface, Origin("x", "y"), (), quality)
    registry.publish(manifest, {"model.onnx": source})
    print(version, flush=True)
"""


def test_kill_9_while_publishing_leaves_whole_versions(tmp_path: Path) -> None:
    root, program = tmp_path / "registry", tmp_path / "publisher.py"
    program.write_text(textwrap.dedent(PUBLISHER))
    generator, said = random.Random(3), []
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, str(program), str(root), str(tmp_path / "source")], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == "started\n"
            time.sleep(generator.uniform(0.0, 0.15))
            process.kill()
            said += process.stdout.read().split()
        process.wait()
        present = assert_whole(Registry(root))
        assert {f"tiny@{version}" for version in said} <= set(present), "a version that was said to be is gone"
    assert said


def test_what_a_killed_process_left_goes_in_time(registry: Registry) -> None:
    old, young = registry.root / "staging/old", registry.root / "staging/young"
    for folder in (old, young):
        (folder / "version").mkdir(parents=True)
    past = time.time() - ABANDONED_AFTER_S - 60
    os.utime(old, (past, past))
    Registry(registry.root)
    assert [folder.name for folder in (registry.root / "staging").iterdir()] == ["young"]


def test_a_model_without_a_version_is_no_model(registry: Registry) -> None:
    """What a crash between making the folder and the rename leaves."""
    (registry.root / "models/tiny").mkdir()
    assert registry.models() == []
    with pytest.raises(UnknownVersion, match="none yet"):
        registry.latest("tiny")


# -- several at once -------------------------------------------------------------------------------------


def test_of_several_who_publish_one_version_one_succeeds(registry: Registry, tmp_path: Path) -> None:
    def publish(number: int) -> bytes | None:
        source = tmp_path / f"source{number}"
        source.write_bytes(random.Random(number).randbytes(200_000))
        try:
            Registry(registry.root).publish(tiny_models.manifest_of(), {"model.onnx": source})
        except PublishFailed as failure:
            assert "exists already" in str(failure)  # noqa: PT017 (which of them fails is open)
            return None
        return source.read_bytes()

    for _ in range(5):
        shutil.rmtree(registry.root / "models/tiny", ignore_errors=True)
        with ThreadPoolExecutor(8) as pool:
            (winner,) = [content for content in pool.map(publish, range(8)) if content is not None]
        assert registry.path(registry.latest("tiny"), "model.onnx").read_bytes() == winner
        assert list((registry.root / "staging").iterdir()) == []


def test_first_users_at_the_same_time_agree_on_the_signing_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        registries = list(pool.map(lambda _: Registry(tmp_path / "registry"), range(8)))
    assert len({registry._sign(b"payload") for registry in registries}) == 1
    assert (tmp_path / "registry/signing.key").stat().st_mode & 0o777 == 0o600


# -- evidence ----------------------------------------------------------------------------------------------


def test_a_version_is_served_on_evidence_or_by_force() -> None:
    assert check_servable(tiny_models.manifest_of(quality=tiny_models.PROVEN)) == ()
    broken = tiny_models.manifest_of(quality=tiny_models.BROKEN)
    with pytest.raises(NotServable, match=r"cosine_mean >= 0\.99 is not proven.*--force tiny@1-fp32"):
        check_servable(broken)
    assert check_servable(broken, forced=True) == broken.quality.broken_bounds() != ()


NAN = float("nan")


@pytest.mark.parametrize(
    ("bound", "metric", "is_met"),
    [
        (Bound("m", at_least=0.9), Metric("m", 0.95, 0.9, 1.0, 9), True),
        (Bound("m", at_least=0.9), Metric("m", 0.95, 0.89, 1.0, 9), False),
        (Bound("m", at_most=0.1), Metric("m", 0.05, 0.0, 0.1, 9), True),
        (Bound("m", at_most=0.1), Metric("m", 0.05, 0.0, 0.11, 9), False),
        (Bound("m", at_least=0.0, at_most=0.1), Metric("m", 0.05, -0.1, 0.05, 9), False),
        (Bound("m", at_least=0.9), Metric("m", NAN, NAN, NAN, 9), False),
        (Bound("m", at_most=0.1), Metric("m", NAN, NAN, NAN, 9), False),
        (Bound("m", at_least=0.9, at_most=2), Metric("m", 1.0, 0.95, NAN, 9), False),
    ],
)
def test_the_pessimistic_end_of_the_interval_decides(bound: Bound, metric: Metric, is_met: bool) -> None:
    assert bound.is_met_by(metric) is is_met


def test_a_bound_on_what_was_not_measured_is_broken() -> None:
    quality = replace(tiny_models.PROVEN, bounds=(Bound("accuracy", at_least=0.5),))
    assert quality.broken_bounds() == ("accuracy >= 0.5 was declared but accuracy was not measured",)
