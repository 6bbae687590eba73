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
@pytest.mark.parametrize("kind", GRAPHS)
def test_answers_are_the_versions(kind: str, tmp_path: Path) -> None:
    graph = GRAPHS[kind](tmp_path / "model.onnx")
    assert parity_of(TvmTarget(), graph, tmp_path / "out", tolerance(kind)).n == 21


@pytest.mark.skipif(IS_INSTALLED, reason="TVM is installed")
def test_without_tvm_the_message_says_what_to_install() -> None:
    with pytest.raises(MissingExtra, match="pip install apache-tvm"):
        target_of("tvm", TargetOptions(), Interface(Task.EMBEDDING, 16, 9))
