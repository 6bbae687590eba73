"""Training and optimising from the command line: killed and continued, refused, published, served."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs torch")

from tests import tiny_models
from tests.tiny_encoders import write_tiny_encoder
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE
from tremplin.registry.store import Registry

WORDS = [f"w{number}" for number in range(40)]
FINE_TUNE = ("--method", "fine-tune", "--encoder", "enc", "--batch-rows", "16", "--learning-rate", "0.002")


def make_data(folder: Path) -> Path:
    """Make a data folder whose registry holds an encoder."""
    source = folder / "source"
    source.mkdir(parents=True)
    vocabulary = len(tiny_models.VOCABULARY) + len(WORDS)
    files = {
        MODEL_FILE: write_tiny_encoder(source / MODEL_FILE, vocab_size=vocabulary),
        TOKENIZER_FILE: tiny_models.write_tokenizer(source / TOKENIZER_FILE, extra_words=WORDS),
    }
    interface = replace(tiny_models.EMBEDDING, vocab_size=vocabulary, embedding_dim=32)
    Registry(folder / "registry").publish(tiny_models.manifest_of("enc", "1-fp32", interface=interface), files)
    return folder


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    generator = random.Random(0)
    file = tmp_path / "texts.csv"
    lines = ["text,label"]
    for number in range(300):
        words = generator.sample(WORDS[:20], 3) + generator.sample(WORDS[20 + 10 * (number % 2) :][:10], 2)
        lines.append(f"{' '.join(words)},{'ab'[number % 2]}")
    file.write_text("\n".join(dict.fromkeys(lines)))
    return file


def tremplin(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tremplin", *arguments], capture_output=True, text=True, timeout=300, check=False
    )


def digest(data: Path, model: str) -> str:
    return Registry(data / "registry").resolve(model).artefact(MODEL_FILE).sha256


def test_a_killed_training_goes_on_to_the_same_bytes(tmp_path: Path, texts: Path) -> None:
    whole, broken = make_data(tmp_path / "whole"), make_data(tmp_path / "broken")
    order = ("train", str(texts), "--name", "intents", *FINE_TUNE, "--epochs", "60", "--json")
    done = tremplin(*order, "--data", str(whole))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == "intents@1-fp32"

    process = subprocess.Popen(
        [sys.executable, "-m", "tremplin", *order, "--data", str(broken)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list((broken / "runs").rglob("*.checkpoint")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert Registry(broken / "registry").versions("intents") == []
    again = tremplin(*order, "--data", str(broken))
    assert again.returncode == 0, again.stderr
    assert digest(broken, "intents") == digest(whole, "intents")


def test_a_study_from_the_command_line(tmp_path: Path, texts: Path) -> None:
    data = make_data(tmp_path / "data")
    recipes = tmp_path / "recipes.yaml"
    recipes.write_text(
        "- name: whole\n  steps:\n  - fine-tune: {epochs: 12, learning-rate: 0.002, batch-rows: 16}\n"
        "  - quantize\n"
        "- name: narrow\n  steps:\n  - fine-tune: {epochs: 12, learning-rate: 0.002, batch-rows: 16}\n"
        "  - prune: {rows: 64}\n  - distil: {epochs: 4, learning-rate: 0.002}\n  - quantize\n"
    )
    order = (
        "optimize", "enc", "--labelled", str(texts), "--name", "shop", "--recipes", str(recipes),
        "--allowed-loss", "30", "--data", str(data),
    )  # fmt: skip
    done = tremplin(*order, "--slo", "p95<=500ms,size<=50MB,loss<=30pt")
    assert done.returncode == 0, done.stderr
    assert "is the cheapest that holds" in done.stdout
    assert "Published shop@1-fp32 (reference)" in done.stdout
    assert len(Registry(data / "registry").versions("shop")) in (1, 2)  # the reference itself may be the cheapest
    report = tremplin("report", "--run", "shop", "--format", "markdown", "--data", str(data))
    assert report.returncode == 0, report.stderr
    assert "narrow" in report.stdout


def test_students_of_an_encoder_from_texts_without_labels(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    generator = random.Random(1)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(" ".join(generator.sample(WORDS, 6)) for _ in range(400)))
    queries, passages = tmp_path / "queries.jsonl", tmp_path / "passages.jsonl"
    written = [" ".join(generator.sample(WORDS, 8)) for _ in range(60)]
    passages.write_text("".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(written)))
    queries.write_text(
        "".join(
            json.dumps({"text": " ".join(text.split()[:5]), "relevant": [n]}) + "\n"
            for n, text in enumerate(written)
        )
    )
    recipes = tmp_path / "recipes.yaml"
    recipes.write_text(
        "- {name: whole, steps: [quantize]}\n"
        "- name: one\n  steps:\n  - drop-layers: {keep: 1}\n  - distil: {epochs: 4, embedding-weight: 1.0}\n"
        "  - quantize\n"
    )
    done = tremplin(
        "optimize", "enc", "--unlabelled", str(texts), "--queries", str(queries), "--passages", str(passages),
        "--name", "finder", "--recipes", str(recipes), "--allowed-loss", "60", "--data", str(data), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [entry["name"] for entry in found["entries"]] == ["reference", "whole", "one"]
    assert found["entries"][0]["quality"] == "ndcg_at_10"
    assert set(found["published"]) <= {"whole", "one"}
    assert found["published"]
    refs = {manifest.ref for manifest in Registry(data / "registry").versions("finder")}
    assert refs == set(found["published"].values())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("train", "{texts}", "--name", "x", "--epochs", "3"), "need --method fine-tune"),
        (("train", "{texts}", "--name", "x", "--head", "--method", "fine-tune"), "contradict"),
        (("train", "{texts}", "--name", "../x", *FINE_TUNE), "cannot name"),
        (("optimize", "enc", "--recipes", "r.yaml"), "need --labelled"),
        (("optimize", "enc", "--labelled", "{texts}", "--budget", "soon"), "'soon' is not a time"),
        (("optimize", "enc", "--labelled", "{texts}", "--slo", "speed<=3"), "'speed'"),
        (("optimize", "enc", "--labelled", "{texts}", "--recipes", "none.yaml"), "none.yaml cannot be read"),
        (("optimize", "enc", "--unlabelled", "{texts}", "--queries", "{texts}"), "go together"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, texts: Path, arguments: tuple[str, ...], says: str) -> None:
    data = make_data(tmp_path / "data")
    done = tremplin(*(word.format(texts=texts) for word in arguments), "--data", str(data))
    assert done.returncode != 0
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert [m.ref for m in Registry(data / "registry").versions("enc")] == ["enc@1-fp32"]
