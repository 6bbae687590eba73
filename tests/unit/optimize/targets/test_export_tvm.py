"""Graphs of every kind, compiled by TVM."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.unit.optimize.targets.exported_models import GRAPHS, parity_of, tolerance
from tremplin.errors import MissingExtra
from tremplin.optimize.targets.catalogue import TargetOptions, target_of
from tremplin.optimize.targets.tvm import TvmTarget
from tremplin.registry.manifest import Interface
from tremplin.registry.task import Task

IS_INSTALLED = importlib.util.find_spec("tvm") is not None


@pytest.mark.skipif(not IS_INSTALLED, reason="TVM is not installed: pip install apache-tvm")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [kind for kind in GRAPHS if kind != "mpnet"])
def test_answers_are_the_versions(kind: str, tmp_path: Path) -> None:
    graph = GRAPHS[kind](tmp_path / "model.onnx")
    assert parity_of(TvmTarget(), graph, tmp_path / "out", tolerance(kind)).n == 21


@pytest.mark.skipif(not IS_INSTALLED, reason="TVM is not installed: pip install apache-tvm")
@pytest.mark.filterwarnings("ignore")
def test_mpnet_is_what_its_importer_does_not_take(tmp_path: Path) -> None:
    """Of 0.27.0: a bias over (batch, heads, queries, keys) leaves it without a shape. docs/limits.md says so."""
    graph = GRAPHS["mpnet"](tmp_path / "model.onnx")
    with pytest.raises(Exception, match="known shape"):
        parity_of(TvmTarget(), graph, tmp_path / "out")


@pytest.mark.skipif(IS_INSTALLED, reason="TVM is installed")
def test_without_tvm_the_message_says_what_to_install() -> None:
    with pytest.raises(MissingExtra, match="pip install apache-tvm"):
        target_of("tvm", TargetOptions(), Interface(Task.EMBEDDING, 16, 9))
