"""A console over stand-in services and a real registry, for the tests of its pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httpx
import numpy as np
from run_standin import StandInLauncher, standin_publish

from tremplin.console.desk import RunDesk
from tremplin.console.processes import Launcher
from tremplin.console.view import ConsoleView, LiveVersion, State
from tremplin.machine import Machine
from tremplin.registry.manifest import Interface, Manifest, Origin
from tremplin.registry.passport import BatchCosts, Bound, CostError, Metric, Quality, Speed, Throughput
from tremplin.registry.store import Registry
from tremplin.registry.task import Task
from tremplin.serve.services import Answered, Services
from tremplin.serve.timing import Timings
from tremplin.tasks import explain as occlusion
from tremplin.tasks.classify import Classification, classification
from tremplin.tasks.embed import Vectors, unit
from tremplin.tasks.explain import Explanation
from tremplin.tasks.search import Document, Hit
from tremplin.tasks.zero_shot import CandidateLabel

ORIGIN = "http://console.test"
SAME_ORIGIN = {"origin": ORIGIN}
KEY = "tk_test_key"
READER_KEY = "tk_reader_key"
TICKET = "ticket-1"
SECRET = b"a session secret for tests"

LABELS = (
    "billing_question",
    "refund_request",
    "delivery_status",
    "technical_bug",
    "account_locked",
    "change_plan",
    "data_export",
)
TIMINGS = Timings(tokenize_ms=0.41, queue_ms=0.06, compute_ms=3.92, tokens=23)
ENCODER, CLASSIFIER = "minilm@2-int8", "support-desk@2-int8"

OpenConsole = Callable[..., httpx.AsyncClient]


async def signed_in(client: httpx.AsyncClient, key: str = KEY) -> httpx.AsyncClient:
    answer = await client.post("/console/sign-in", data={"key": key}, headers=SAME_ORIGIN)
    assert answer.status_code == 303
    return client


@dataclass
class StandInServices:
    """Answers at once, always the same way; raises ``error`` instead when there is one."""

    error: Exception | None = None
    is_sure: bool = True
    asked: list[str] = field(default_factory=list)

    def _note(self, service: str) -> None:
        self.asked.append(service)
        if self.error is not None:
            raise self.error

    async def embed(self, texts: Sequence[str], *, model: str | None = None) -> Answered[Vectors]:
        self._note("embed")
        rows = np.random.default_rng(7).normal(size=(len(texts), 384)).astype(np.float32)
        return Answered(unit(rows), ENCODER, TIMINGS)

    async def similarity(
        self, source: str, others: Sequence[str], *, model: str | None = None
    ) -> Answered[list[float]]:
        self._note("similarity")
        return Answered([0.8234], ENCODER, TIMINGS)

    async def search(self, query: str, *, top_k: int = 5) -> Answered[list[Hit]]:
        self._note("search")
        return Answered([Hit(document, 0.71 - 0.08 * i) for i, document in enumerate(DOCUMENTS)], ENCODER, TIMINGS)

    async def classify(self, texts: Sequence[str], *, model: str | None = None) -> Answered[list[Classification]]:
        self._note("classify")
        logits = np.array([2.9, 1.2, 0.9, 0.1, -0.3, -0.8, -1.5], np.float32) * (1 if self.is_sure else 0.2)
        shares = np.exp(logits) / np.exp(logits).sum()
        return Answered([classification(shares, LABELS, 0.45)] * len(texts), CLASSIFIER, TIMINGS)

    async def zero_shot(
        self, text: str, labels: Sequence[CandidateLabel], *, model: str | None = None
    ) -> Answered[Classification]:
        self._note("zero-shot")
        shares = np.linspace(1, 0.2, len(labels), dtype=np.float32)
        names = [label.label for label in labels]
        return Answered(classification(shares / shares.sum(), names, None), ENCODER, TIMINGS)

    async def explain(
        self, text: str, *, label: str | None = None, model: str | None = None
    ) -> Answered[Explanation]:
        self._note("explain")
        parts = occlusion.spans(text)
        losses = np.random.default_rng(3).normal(0.02, 0.12, len(parts)).astype(np.float32)
        return Answered(occlusion.explanation(text, parts, LABELS[0], 0.81, 0.81 - losses), CLASSIFIER, TIMINGS)


DOCUMENTS = [
    Document(
        "en-01",
        "Resetting your password",
        'Open the sign-in page and choose "Forgot password". Type the e-mail address of your account and we '
        "send you a link that stays valid for thirty minutes. The link works once only: if you ask for a "
        "second one, the first is cancelled.",
        "en",
    ),
    Document("fr-04", "Changer de téléphone", "Avant de changer d'appareil, ajoutez le nouveau.", "fr"),
    Document("en-09", "Two-factor authentication", "A code from your phone completes the password.", "en"),
]


def console_view(
    root: Path,
    *,
    services: StandInServices | None = None,
    state: State = "ready",
    live: Sequence[LiveVersion] | None = None,
    is_empty: bool = False,
    is_open: bool = False,
    runs: Path | None = None,
    launcher: Launcher | None = None,
    can_train: bool = True,
    max_upload_bytes: int = 100_000,
) -> ConsoleView:
    """Return a view over a registry in ``root``, filled once unless it should stay empty."""
    registry = Registry(root)
    if not is_empty and not registry.models():
        fill(registry, root)
    tickets = {TICKET}

    def redeem(ticket: str) -> bool:
        known = ticket in tickets
        tickets.discard(ticket)
        return known

    serving = LIVE if live is None else tuple(live)
    return ConsoleView(
        services=cast(Services, services or StandInServices()),
        registry=registry,
        live=lambda: serving,
        state=lambda: state,
        check_key=lambda key: key in {KEY, READER_KEY},
        is_operator_key=lambda key: key == KEY,
        redeem_ticket=redeem,
        runs=RunDesk(
            runs or root / "runs",
            registry,
            launcher or StandInLauncher(),
            standin_publish,
            options=(f"--data={(runs or root / 'runs').parent}",),
            max_upload_bytes=max_upload_bytes,
            can_train=lambda: can_train,
        ),
        session_secret=SECRET,
        version="0.1.0",
        is_open=is_open,
    )


LIVE = (
    LiveVersion("embed", ENCODER, "embedding", False, (), "onnxruntime", 1),
    LiveVersion(
        "classify",
        CLASSIFIER,
        "classification",
        True,
        ("label_agreement >= 0.97 is not proven: measured 0.9721 [0.9594, 0.9809], n=980",),
        "onnxruntime",
        1,
    ),
)

MACHINE = Machine(
    cpu="Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
    architecture="x86_64",
    cores=2,
    cores_from="affinity",
    memory_bytes=16 * 10**9,
    flags=("avx2", "avx512f", "avx512_vnni", "amx_int8"),
    system="Linux 6.8",
)
SOFTWARE = {"onnxruntime": "1.31.1", "numpy": "2.4.2", "tokenizers": "0.23.3", "onnx": "1.23.0"}

EMBEDDING = Interface(Task.EMBEDDING, max_tokens=256, vocab_size=30522, embedding_dim=384)
CLASSIFYING = Interface(Task.CLASSIFICATION, max_tokens=256, vocab_size=30522, labels=LABELS, abstain_below=0.45)


def fill(registry: Registry, root: Path) -> None:
    """Publish two models with two and three versions, and their speeds."""
    hub = "sentence-transformers/all-MiniLM-L6-v2"
    publish(registry, root, "minilm", "1-fp32", EMBEDDING, hub, 90_400_000, 9.8, encoder_quality(1.0))
    publish(
        registry, root, "minilm", "2-int8", EMBEDDING, "minilm@1-fp32", 23_100_000, 3.4, encoder_quality(0.9968)
    )
    publish(
        registry, root, "minilm", "3-int4", EMBEDDING, "minilm@2-int8", 14_900_000, 3.3, encoder_quality(0.971)
    )
    publish(
        registry,
        root,
        "support-desk",
        "1-fp32",
        CLASSIFYING,
        "minilm@1-fp32",
        90_500_000,
        9.9,
        classifier_quality(1.0),
    )
    publish(
        registry,
        root,
        "support-desk",
        "2-int8",
        CLASSIFYING,
        "support-desk@1-fp32",
        23_200_000,
        3.5,
        classifier_quality(0.972),
    )


def encoder_quality(cosine: float) -> Quality:
    half = (1 - cosine) / 12
    agreement = 1 - (1 - cosine) * 4
    return Quality(
        reference="sentence-transformers/all-MiniLM-L6-v2",
        data="sentences.jsonl",
        data_sha256="5f0c" * 16,
        seed=20240711,
        metrics=(
            Metric("cosine_mean", cosine, cosine - half, min(1.0, cosine + half), 812),
            Metric("cosine_min", cosine - 6 * half, cosine - 6 * half, cosine - 6 * half, 812),
            Metric("retrieval_agreement", agreement, agreement - 0.009, min(1.0, agreement + 0.006), 812),
            Metric("batch_dependence", 0.0041, 0.0041, 0.0041, 96),
        ),
        bounds=(
            Bound("cosine_mean", at_least=0.995),
            Bound("cosine_min", at_least=0.98),
            Bound("retrieval_agreement", at_least=0.95),
            Bound("batch_dependence", at_most=0.02),
        ),
        software=SOFTWARE,
    )


def classifier_quality(agreement: float) -> Quality:
    return Quality(
        reference="support-desk@1-fp32",
        data="support_desk/test.jsonl",
        data_sha256="77ab" * 16,
        seed=20240711,
        metrics=(
            Metric("label_agreement", agreement, agreement - 0.0127, min(1.0, agreement + 0.0088), 980),
            Metric("batch_dependence", 0.0041, 0.0041, 0.0041, 96),
            Metric("probability_difference_max", 0.031, 0.031, 0.031, 980),
            Metric("accuracy", 0.913, 0.894, 0.929, 980),
            Metric("accuracy_reference", 0.916, 0.897, 0.932, 980),
        ),
        bounds=(Bound("label_agreement", at_least=0.97), Bound("batch_dependence", at_most=0.02)),
        software=SOFTWARE,
    )


def speed(p50_ms: float, size_bytes: int) -> Speed:
    shapes = ((1, 16), (4, 16), (16, 16), (32, 16), (1, 64), (4, 64), (16, 64), (1, 128), (4, 128))
    rates = [1000 / p50_ms * (rows**0.35) * 16 / tokens * 1.2 for rows, tokens in shapes]
    return Speed(
        machine=MACHINE,
        engine="onnxruntime",
        threads=1,
        measured_at="2025-11-22T05:07:31+00:00",
        rounds=7,
        load_ms=140 + size_bytes / 4e5,
        peak_memory_bytes=120_000_000 + 2 * size_bytes,
        p50_ms=p50_ms,
        p99_ms=p50_ms * 1.31,
        latency_tokens=16,
        latency_n=500,
        throughput=tuple(
            Throughput(rows, tokens, rate, rate * 0.97, rate * 1.02)
            for (rows, tokens), rate in zip(shapes, rates, strict=True)
        ),
        costs=BatchCosts(0.1e-3 * p50_ms, 0.0, 0.05e-3 * p50_ms, 0.0, (), CostError(0.04, 0.11, 9)),
        software=SOFTWARE,
    )


def publish(
    registry: Registry,
    root: Path,
    model: str,
    version: str,
    interface: Interface,
    source: str,
    size_bytes: int,
    p50_ms: float,
    quality: Quality,
) -> None:
    precision = version.partition("-")[2]
    recipe = () if precision == "fp32" else ("fuse", f"quantize({precision}, per_channel=true)")
    manifest = Manifest(
        model=model,
        version=version,
        precision=precision,
        interface=interface,
        origin=Origin(source, "BertModel", recipe=recipe, notes=("pooling: mean, normalised",)),
        artefacts=(),
        quality=quality,
        created_at="2025-11-22T05:01:00+00:00",
    )
    # Sparse: the size counts, the content does not.
    graph, tokenizer = root / "model.onnx", root / "tokenizer.json"
    with graph.open("wb") as stream:
        stream.truncate(size_bytes // 100)
    tokenizer.write_text("{}")
    published = registry.publish(manifest, {"model.onnx": graph, "tokenizer.json": tokenizer})
    registry.record_speed(published, speed(p50_ms, size_bytes))
