"""What the loop is used for, on encoders small enough to learn in a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from tests.tiny_encoders import write_tiny_encoder  # noqa: E402
from tremplin.errors import PassFailed  # noqa: E402
from tremplin.optimize.compress import prune, static  # noqa: E402
from tremplin.optimize.compress.distil import Distillation, teach  # noqa: E402
from tremplin.optimize.compress.sparsify import sparsify, sparsity  # noqa: E402
from tremplin.optimize.network.from_graph import read_network  # noqa: E402
from tremplin.optimize.network.network import Network  # noqa: E402
from tremplin.optimize.network.torch_network import TorchNetwork  # noqa: E402
from tremplin.optimize.training import lora  # noqa: E402
from tremplin.optimize.training.answers import accuracy, answer  # noqa: E402
from tremplin.optimize.training.fine_tune import (  # noqa: E402
    FineTuning,
    TokenLesson,
    fine_tune,
    fine_tune_tokens,
    label_weights,
    with_classifier,
)
from tremplin.optimize.training.lesson import Lesson  # noqa: E402
from tremplin.optimize.training.loop import Schedule  # noqa: E402
from tremplin.optimize.training.objectives import IGNORED  # noqa: E402
from tremplin.optimize.training.pairs import (  # noqa: E402
    FewShot,
    PairRows,
    PairTraining,
    few_shot_pairs,
    train_few_shot,
    train_on_pairs,
)

WORDS, LABELS = 40, ("low", "high", "both")


def lesson(count: int, seed: int) -> Lesson:
    """Rows whose label says whether they hold a word of the first ten, of the next ten, or of both."""
    random = np.random.default_rng(seed)
    rows, targets = [], []
    for number in range(count):
        kind = number % 3
        picks = [random.integers(4, 14)] if kind == 0 else [random.integers(14, 24)]
        if kind == 2:
            picks.append(random.integers(4, 14))
        row = [2, *picks, *random.integers(24, WORDS, random.integers(1, 6)), 3]
        random.shuffle(row[1:-1])
        rows.append([int(number) for number in row])
        targets.append(kind)
    return Lesson(rows, np.array(targets, np.int64))


@pytest.fixture
def encoder(tmp_path: Path) -> Network:
    return read_network(write_tiny_encoder(tmp_path / "encoder.onnx", vocab_size=WORDS))


SCHEDULE = Schedule(epochs=8, batch_rows=32, learning_rate=2e-3, head_learning_rate=1e-2, dropout=0.0, patience=0)


@pytest.fixture
def teacher(encoder: Network) -> Network:
    network, training = fine_tune(encoder, lesson(600, 0), lesson(150, 1), LABELS, FineTuning(SCHEDULE))
    assert training.best.score > 0.95
    return network


def score(network: Network, seed: int = 2) -> float:
    held = lesson(300, seed)
    return accuracy(answer(TorchNetwork(network), held.rows).logits, held.targets)


def test_fine_tuning_learns_what_the_encoder_did_not_know(teacher: Network) -> None:
    assert score(teacher) > 0.95


def test_lora_learns_and_leaves_the_tables_alone(encoder: Network) -> None:
    options = FineTuning(replace(SCHEDULE, learning_rate=1e-2, epochs=12), lora_rank=4)
    network, _ = fine_tune(encoder, lesson(600, 0), lesson(150, 1), LABELS, options)
    assert score(network) > 0.8
    np.testing.assert_array_equal(network.weights.word, encoder.weights.word)
    assert not np.array_equal(network.weights.layers[0].query.weight, encoder.weights.layers[0].query.weight)


def test_merged_corrections_answer_as_unmerged(encoder: Network) -> None:
    module = TorchNetwork(with_classifier(encoder, LABELS, seed=0))
    lora.adapt(module, rank=3, alpha=6)
    for layer in module.layers:
        torch.nn.init.normal_(layer.qkv.up)
    rows = lesson(20, 3).rows
    before = answer(module, rows).logits
    lora.merge(module)
    np.testing.assert_allclose(answer(module, rows).logits, before, atol=1e-4)
    np.testing.assert_allclose(answer(TorchNetwork(module.network()), rows).logits, before, atol=1e-4)


def test_a_student_with_one_layer_learns_from_its_teacher_without_labels(teacher: Network) -> None:
    texts = lesson(800, 5)
    unknown = Lesson(texts.rows, np.full(len(texts.rows), IGNORED))
    shown = answer(TorchNetwork(teacher), texts.rows)
    held = lesson(150, 6)
    student = prune.keep_layers(teacher, (0,))
    before = score(student)
    learned, training = teach(
        student,
        unknown,
        shown,
        Lesson(held.rows, np.full(150, IGNORED)),
        answer(TorchNetwork(teacher), held.rows),
        Distillation(replace(SCHEDULE, epochs=6)),
    )
    assert score(learned) > max(before, 0.9)
    assert training.best.score > 0.9


@pytest.mark.parametrize("weights", [{"states_weight": 1.0}, {"attention_weight": 1.0}])
def test_deep_lessons_need_the_same_pieces(teacher: Network, weights: dict[str, float]) -> None:
    texts, held = lesson(120, 5), lesson(60, 6)
    shown, held_shown = (answer(TorchNetwork(teacher), part.rows) for part in (texts, held))
    options = replace(Distillation(replace(SCHEDULE, epochs=1)), **weights)
    student = prune.keep_layers(teacher, (1,))
    learned, _ = teach(student, texts, shown, held, held_shown, options, deep_teacher=(teacher, texts.rows))
    assert len(learned.weights.layers) == 1
    with pytest.raises(PassFailed, match="trim-vocabulary"):
        teach(student, texts, shown, held, held_shown, options)


def test_quantization_aware_lessons_round_in_the_forward_pass(teacher: Network) -> None:
    texts, held = lesson(400, 5), lesson(100, 6)
    shown, held_shown = (answer(TorchNetwork(teacher), part.rows) for part in (texts, held))
    options = Distillation(replace(SCHEDULE, epochs=3), quantization_aware=True)
    learned, training = teach(teacher, texts, shown, held, held_shown, options)
    assert training.best.score > 0.9
    assert score(learned) > 0.9  # without the rounding as well


def test_pruning_cuts_what_matters_least(teacher: Network) -> None:
    texts = lesson(300, 7)
    module = TorchNetwork(teacher)
    # Heads and neurons without any effect must be found and go first.
    with torch.no_grad():
        for layer in module.layers:
            layer.attention_output.weight[:, :16] = 0
            layer.down.weight[:, ::2] = 0
    dead = module.network()
    targets = torch.from_numpy(texts.targets)

    def loss_of(numbers: np.ndarray) -> torch.Tensor:
        from tremplin.optimize.training.batches import padded

        return torch.nn.functional.cross_entropy(module(*padded(texts.rows, numbers)).logits, targets[numbers])

    importance = prune.measure_importance(module, [np.arange(100), np.arange(100, 200)], loss_of)
    cut = prune.cut(dead, importance, heads=0.5, neurons=0.5)
    assert [cut.heads_of(layer) for layer in cut.weights.layers] == [2, 2]
    assert [len(layer.up.weight) for layer in cut.weights.layers] == [32, 32]
    # Only a bias of the dead part is lost, and there is none behind a matrix of zeros.
    np.testing.assert_allclose(
        answer(TorchNetwork(cut), texts.rows).logits, answer(TorchNetwork(dead), texts.rows).logits, atol=1e-4
    )
    assert cut.encoder_parameters < 0.6 * dead.encoder_parameters


def test_a_static_student_learns_without_layers(teacher: Network) -> None:
    student = static.static_student(teacher, width=16, bigram_rows=50, inner=24)
    texts, held = lesson(800, 5), lesson(150, 6)
    shown, held_shown = (answer(TorchNetwork(teacher), part.rows) for part in (texts, held))
    options = Distillation(replace(SCHEDULE, epochs=15, learning_rate=1e-2, head_learning_rate=1e-2))
    learned, _ = teach(student, texts, shown, held, held_shown, options)
    assert learned.weights.layers == ()
    assert score(learned) > 0.85


def test_zeros_are_counted(teacher: Network) -> None:
    assert sparsity(sparsify(teacher, share=0.7)) == pytest.approx(0.7, abs=0.01)
    with pytest.raises(PassFailed, match="between 0 and 1"):
        sparsify(teacher, share=1.0)


def test_pairs_bring_queries_near_their_passages(encoder: Network) -> None:
    def rows(offset: int, count: int, seed: int) -> tuple[list[list[int]], list[list[int]]]:
        random = np.random.default_rng(seed)
        numbers = random.integers(0, 10, (count, 2)).tolist()
        return [[2, 4 + a, 14 + b, 3] for a, b in numbers], [[2, 24 + a, 4 + b, 3] for a, b in numbers]

    queries, passages = rows(0, 400, 0)
    held = PairRows(*rows(0, 40, 1))
    _, training = train_on_pairs(
        encoder,
        PairRows(queries, passages),
        held,
        PairTraining(replace(SCHEDULE, epochs=6, learning_rate=3e-3, evaluations_per_epoch=1)),
    )
    assert training.best.score > training.points[0].score
    assert training.best.score > 0.5


def test_few_shot_brings_texts_of_a_label_together(encoder: Network) -> None:
    texts = lesson(24, 0)
    schedule = replace(SCHEDULE, epochs=8, learning_rate=5e-3, batch_rows=16)
    _, training = train_few_shot(encoder, texts.rows, texts.targets, FewShot(schedule, pairs_per_text=10))
    assert training.best.score > 0.5
    first, second, same = few_shot_pairs(texts.targets, 10, seed=0)
    assert np.array_equal(texts.targets[first] == texts.targets[second], same)
    assert (first != second).all()
    assert same.mean() == pytest.approx(0.5, abs=0.05)


def test_words_are_labelled_one_by_one(encoder: Network) -> None:
    def tokens(count: int, seed: int) -> TokenLesson:
        random = np.random.default_rng(seed)
        rows = [[2, *random.integers(4, WORDS, 6).tolist(), 3] for _ in range(count)]
        return TokenLesson(rows, [[IGNORED, *(int(word < 14) for word in row[1:-1]), IGNORED] for row in rows])

    network, training = fine_tune_tokens(encoder, tokens(300, 0), tokens(60, 1), ("O", "B"), FineTuning(SCHEDULE))
    assert training.best.score > 0.97
    assert network.labels == ("O", "B")


def test_rare_labels_weigh_more() -> None:
    weights = label_weights(np.array([0, 0, 0, 1]), 3)
    assert weights.tolist() == pytest.approx([2 / 3, 2.0, 0.0])
