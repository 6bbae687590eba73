"""A whole study on an encoder small enough for a test: recipes, judging, racing, publishing, going on."""

from __future__ import annotations

import contextlib
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch")

from tests import tiny_models
from tests.tiny_encoders import write_tiny_encoder
from tremplin.errors import BadInput, NotServable, PassFailed
from tremplin.machine import read_machine
from tremplin.optimize.measure import BRIEF_SHAPES, Effort
from tremplin.optimize.recipes.corpus import Corpus, read_corpus
from tremplin.optimize.recipes.publish import drafts, publish_from_run, write_drafts
from tremplin.optimize.recipes.recipe import Recipe, recipe
from tremplin.optimize.recipes.run_folder import RunFolder, RunState, list_runs
from tremplin.optimize.recipes.runner import first_stage, run_recipe
from tremplin.optimize.recipes.stage import Stage
from tremplin.optimize.recipes.steps import (
    Distil,
    DropLayers,
    FewShot,
    FineTune,
    FrozenHead,
    Half,
    Prune,
    Quantize,
    Sparsify,
    Static,
    Workshop,
)
from tremplin.optimize.recipes.study import CascadeRecipe, StudyOptions, as_json, choose_threshold, run_study
from tremplin.progress import silent
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE, Manifest
from tremplin.registry.store import Registry, check_servable

WORDS = [f"w{number}" for number in range(60)]
QUICK = Effort(BRIEF_SHAPES, rounds=1, seconds_per_round=0.01, latency_runs=5)
TEACH = FineTune(epochs=12, learning_rate=2e-3, head_learning_rate=1e-2, batch_rows=32, dropout=0.0, patience=0)
LESSON = Distil(epochs=6, learning_rate=3e-3, head_learning_rate=3e-3, batch_rows=32, patience=0, augment=0.5)
RECIPES = (
    recipe("whole", TEACH, Quantize()),
    recipe("narrow", TEACH, Prune(rows=128), DropLayers(keep=1), LESSON, Quantize()),
    recipe(
        "static",
        TEACH,
        Static(width=16, bigram_rows=64, inner=16),
        replace(LESSON, learning_rate=1e-2),
        Quantize(),
    ),
)


def write_texts(path: Path, count: int, seed: int) -> Path:
    """Write texts whose label says which third of the vocabulary their marked words come from."""
    generator = random.Random(seed)
    with path.open("w") as file:
        for number in range(count):
            third = number % 3
            words = generator.sample(WORDS[:15], 3) + generator.sample(
                WORDS[15 * (third + 1) : 15 * (third + 2)], 2
            )
            generator.shuffle(words)
            file.write(
                json.dumps({"text": " ".join(words), "label": "abc"[third], "lang": "fr" if number % 2 else "en"})
            )
            file.write("\n")
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    outside = folder / "outside.txt"
    outside.write_text("\n".join(" ".join(random.Random(n).sample(WORDS[:15], 4)) for n in range(60)))
    return read_corpus(
        write_texts(folder / "train.jsonl", 420, 0),
        test=write_texts(folder / "test.jsonl", 300, 1),
        out_of_scope=outside,
    )


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def source(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = len(tiny_models.VOCABULARY) + len(WORDS)
    interface = replace(tiny_models.EMBEDDING, vocab_size=vocabulary, embedding_dim=32)
    files = {
        MODEL_FILE: write_tiny_encoder(folder / MODEL_FILE, vocab_size=vocabulary),
        TOKENIZER_FILE: tiny_models.write_tokenizer(folder / TOKENIZER_FILE, extra_words=WORDS),
    }
    return registry.publish(tiny_models.manifest_of("enc", "1-fp32", interface=interface), files)


def begin(registry: Registry, source: Manifest, folder: Path, corpus: Corpus) -> tuple[Stage, Workshop]:
    return first_stage(registry, source, folder / "stages"), Workshop(corpus, 1, 0)


OPTIONS = StudyOptions(allowed_points=3.0, race_rounds=2, race_seconds=0.05)


@pytest.fixture(scope="module")
def studied(registry: Registry, source: Manifest, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("run")
    start, workshop = begin(registry, source, folder, corpus)
    cascade = CascadeRecipe("both", "narrow", "whole", allowed_points=0.5)
    return folder, run_study(RECIPES, start, folder, workshop, OPTIONS, cascades=(cascade,))


def test_a_study_judges_every_recipe_against_the_teacher(studied) -> None:
    folder, study = studied
    assert [entry.name for entry in study.entries] == ["reference", "whole", "narrow", "static", "both"]
    assert study.reference.evidence.metric("accuracy").value > 0.8
    assert study.reference.evidence.verdict is None
    for entry in study.entries[1:]:
        assert entry.evidence.verdict is not None
        assert entry.evidence.metric("accuracy").value > 0.7, entry.name
        assert entry.evidence.metric("out_of_scope_auroc").value > 0.6
        assert {part.name for part in entry.evidence.classes} == {"a", "b", "c"}
        assert {"language en", "language fr"} <= {part.name for part in entry.evidence.slices}
    whole = study.entry("whole")
    assert whole.evidence.size_bytes < study.reference.evidence.size_bytes
    assert any(entry.on_front for entry in study.entries)
    kept = json.loads((folder / "study.json").read_text())
    assert [entry["name"] for entry in kept["entries"]] == [entry.name for entry in study.entries]
    assert kept["entries"][2]["facts"]["encoder_weights_kept"] < 0.6


def test_the_joined_version_answers_as_one_of_its_two(studied, corpus: Corpus) -> None:
    from tremplin.optimize.recipes.finish import answers_of

    _, study = studied
    first, then, both = (study.entry(name) for name in ("narrow", "whole", "both"))
    answers = [
        answers_of(e.graph, e.stage, corpus.test.texts, "probabilities", threads=1) for e in (first, then, both)
    ]
    is_sure = answers[0].max(axis=1) >= both.facts["threshold"]
    assert is_sure.mean() > 0
    np.testing.assert_allclose(answers[2], np.where(is_sure[:, None], answers[0], answers[1]), atol=1e-5)


def test_what_was_worked_is_not_worked_again(
    studied, registry: Registry, source: Manifest, corpus: Corpus
) -> None:
    folder, study = studied
    before = sorted((path.stat().st_ino, path.name) for path in (folder / "stages").iterdir())
    start, workshop = begin(registry, source, folder, corpus)
    again = run_study(RECIPES[:2], start, folder, workshop, OPTIONS)
    assert sorted((path.stat().st_ino, path.name) for path in (folder / "stages").iterdir()) == before
    assert again.entry("narrow").evidence == study.entry("narrow").evidence


def test_a_second_run_gives_the_same_bytes(
    studied,
    registry: Registry,
    source: Manifest,
    corpus: Corpus,
    tmp_path: Path,
) -> None:
    _, study = studied
    start, workshop = begin(registry, source, tmp_path, corpus)
    made = run_recipe(RECIPES[1], start, tmp_path / "stages", workshop)
    assert made.graph.read_bytes() == study.entry("narrow").stage.graph.read_bytes()


def test_a_version_is_published_with_its_evidence(
    studied, registry: Registry, source: Manifest, corpus: Corpus
) -> None:
    folder, study = studied
    write_drafts(study, folder, source, corpus, "intents", allowed_points=3.0, seed=0)
    assert set(drafts(folder)) == {entry.name for entry in study.entries}
    passing = next(entry for entry in study.entries[1:] if entry.evidence.verdict.passes)
    manifest = publish_from_run(registry, folder, passing.name, effort=QUICK)
    assert check_servable(manifest) == ()
    assert manifest.ref == f"intents@1-{passing.name}-int8"
    assert manifest.quality.metric("accuracy_loss_points").high <= 3.0
    assert manifest.origin.recipe[-1].startswith(("quantize", "cascade"))
    assert registry.speed(manifest, read_machine().id, 1) is not None


def test_a_version_the_gate_stops_is_not_published(
    studied, registry: Registry, source: Manifest, corpus: Corpus
) -> None:
    folder, study = studied
    write_drafts(study, folder, source, corpus, "stopped", allowed_points=-50.0, seed=0)
    with pytest.raises(NotServable, match="accuracy_loss_points <= -50 is not proven"):
        publish_from_run(registry, folder, "narrow", effort=QUICK)
    with pytest.raises(BadInput, match="no version 'other'"):
        publish_from_run(registry, folder, "other", effort=QUICK)
    assert registry.versions("stopped") == []


@pytest.mark.parametrize(
    "steps",
    [
        (FrozenHead(), Quantize(scheme="none", table_bits=4)),
        (FewShot(epochs=1, pairs_per_text=2, learning_rate=1e-3), Half()),
        (replace(TEACH, epochs=1, lora_rank=2, balanced=True), Sparsify(share=0.5), Half()),
        (replace(TEACH, epochs=1), replace(LESSON, epochs=1, quantization_aware=True), Quantize(scheme="dynamic")),
        (
            replace(TEACH, epochs=1),
            replace(LESSON, epochs=1, states_weight=1.0, augment=0.0),
            Quantize(scheme="static"),
        ),
    ],
    ids=["frozen", "few-shot", "lora-sparse", "aware", "states"],
)
def test_every_step_leaves_a_version_that_runs(
    registry: Registry, source: Manifest, corpus: Corpus, tmp_path: Path, steps: tuple
) -> None:
    start, workshop = begin(registry, source, tmp_path, corpus)
    stage = run_recipe(Recipe("one", steps), start, tmp_path / "stages", workshop)
    assert stage.interface.labels == ("a", "b", "c")
    assert len(stage.steps) == len(steps) + 1


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ((TEACH, Quantize(), LESSON), "Put quantize and half last"),
        ((Static(width=64),), "width"),
        ((DropLayers(keep=5),), "5 layers"),
        ((Prune(heads=0),), "share above 0"),
    ],
)
def test_a_step_says_what_it_cannot_work_on(
    registry: Registry, source: Manifest, corpus: Corpus, tmp_path: Path, steps: tuple, says: str
) -> None:
    steps = tuple(replace(step, epochs=0.1) if isinstance(step, FineTune) else step for step in steps)
    start, workshop = begin(registry, source, tmp_path, corpus)
    with pytest.raises(PassFailed, match=says):
        run_recipe(Recipe("bad", steps), start, tmp_path / "stages", workshop)
    assert not list((tmp_path / "stages").glob("making-*"))


def test_a_recipe_that_fails_does_not_take_the_others_with_it(
    registry: Registry, source: Manifest, corpus: Corpus, tmp_path: Path
) -> None:
    start, workshop = begin(registry, source, tmp_path, corpus)
    head = FrozenHead()
    study = run_study(
        (recipe("ok", head, Quantize()), recipe("bad", head, DropLayers(keep=9)), recipe("half", head, Half())),
        start, tmp_path, workshop, OPTIONS,
    )  # fmt: skip
    assert [failure.name for failure in study.failures] == ["bad"]
    assert "9 layers" in study.failures[0].reason
    assert [entry.name for entry in study.entries] == ["reference", "ok", "half"]
    assert as_json(study)["failures"][0]["name"] == "bad"


def test_a_threshold_spends_what_may_be_lost_and_no_more() -> None:
    first = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    then = np.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.9, 0.1]])
    targets = np.array([0, 1, 0, 0])
    assert choose_threshold(first, then, targets, 0.0) == (0.9, 0.75)
    assert choose_threshold(first, then, targets, 25.0) == (0.6, 0.0)


def test_a_run_tells_where_it_stands(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "intents")
    with contextlib.suppress(KeyboardInterrupt), folder.working("tremplin optimize", "enc@1", silent) as told:
        told("fine-tune, epoch 1", 0.25)
        assert folder.read().state is RunState.RUNNING
        second = RunFolder(tmp_path, "intents").working("", "", silent)
        with pytest.raises(BadInput, match="another process"):
            second.__enter__()
        raise KeyboardInterrupt
    assert folder.read().state is RunState.STOPPED
    assert folder.read().share == 0.25
    with pytest.raises(PassFailed), folder.working("tremplin optimize", "enc@1", silent):
        raise PassFailed("no layer to prune")
    assert (folder.read().state, folder.read().error) == (RunState.FAILED, "no layer to prune")
    with folder.working("tremplin optimize", "enc@1", silent):
        pass
    folder.add_published(("intents@1-int8",))
    (run,) = list_runs(tmp_path)
    assert (run.state, run.share, run.published) == (RunState.DONE, 1.0, ("intents@1-int8",))
    with pytest.raises(BadInput, match="cannot name a run"):
        RunFolder(tmp_path, "../up")
