"""The bundled model: found without being imported, and only the right bytes are accepted."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tremplin.errors import IncompleteSource, MissingExtra, ParityFailed
from tremplin.optimize import bundled
from tremplin.optimize.importing import GraphFiles, import_model


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})


@pytest.mark.usefixtures("no_package")
def test_missing_package_says_how_to_install_it() -> None:
    assert bundled.is_installed() is False
    with pytest.raises(MissingExtra, match=re.escape(bundled.INSTALL)):
        bundled.bundled_model()


def test_other_weights_are_refused_and_the_package_is_not_run(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / bundled.PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    classifier.rename(package / "model")
    monkeypatch.setattr(sys, "path", [str(package.parent)])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    assert bundled.is_installed() is True
    with pytest.raises(IncompleteSource, match=bundled.WEIGHTS_SHA256):
        bundled.bundled_model()


def test_another_model_fails_the_golden_sentences(sentence_bert: Path, tmp_path: Path) -> None:
    model = import_model(sentence_bert, tmp_path / "imported", reference="numpy")
    with pytest.raises(ParityFailed, match="32 dimensions, expected 384"):
        bundled.check_golden(GraphFiles(model.onnx_path, model.tokenizer_path))
