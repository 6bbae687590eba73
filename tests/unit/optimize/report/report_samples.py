"""Made-up but realistic versions: an embedding model and a classifier, two and three versions each."""

from __future__ import annotations

from tremplin.machine import Machine
from tremplin.registry.manifest import Artefact, Interface, Manifest, Origin
from tremplin.registry.passport import (
    BatchCosts,
    Bound,
    CostError,
    Metric,
    Quality,
    Speed,
    Throughput,
    extreme_metric,
    mean_metric,
    share_metric,
)
from tremplin.registry.task import Task

SOFTWARE = {"onnxruntime": "1.31.1", "numpy": "2.4.2", "tokenizers": "0.23.3"}
MACHINE = Machine(
    cpu="AMD EPYC 9354 32-Core Processor",
    architecture="x86_64",
    cores=2,
    cores_from="cgroup quota",
    memory_bytes=8_589_934_592,
    flags=("avx2", "fma", "avx512f", "avx512_vnni"),
    system="Linux 6.12",
)
LABELS = ("password_reset", "account_locked", "billing_question", "refund", "cancellation", "delivery")


def speed(factor: float = 1.0, *, memory_mb: float = 300, threads: int = 2, machine: Machine = MACHINE) -> Speed:
    """A speed whose rates are ``factor`` times those of a six-layer encoder in fp32."""
    rates = {
        (1, 16): 109.0, (4, 16): 151.0, (16, 16): 186.0, (32, 16): 192.0,
        (1, 64): 38.0, (4, 64): 44.5, (1, 128): 18.6, (4, 128): 20.9,
    }  # fmt: skip
    return Speed(
        machine=machine,
        engine="onnxruntime-cpu",
        threads=threads,
        measured_at="2026-03-02T09:15:00+00:00",
        rounds=7,
        load_ms=412.0 / factor,
        peak_memory_bytes=int(memory_mb * 1e6),
        p50_ms=9.17 / factor,
        p99_ms=11.8 / factor,
        latency_tokens=16,
        latency_n=500,
        throughput=tuple(
            Throughput(rows, tokens, rate * factor, rate * factor * 0.97, rate * factor * 1.02)
            for (rows, tokens), rate in rates.items()
        ),
        costs=BatchCosts(7e-4 / factor, 0.0, 9e-5 / factor, 0.0, (), CostError(0.04, 0.11, 8)),
        software=SOFTWARE,
    )


def embedding_versions() -> tuple[list[Manifest], dict[str, list[Speed]]]:
    """An imported encoder and its int8 version, whose worst cosine is not within its bound."""
    imported = _manifest(
        "minilm", "1-fp32", "fp32", 90_868_376,
        source="sentence-transformers/all-MiniLM-L6-v2",
        metrics=(mean_metric("cosine_mean", [0.9999, 0.9998]), extreme_metric("cosine_min", 0.999998, 3)),
        bounds=(Bound("cosine_min", at_least=0.9999),),
        reference="sentence-transformers/all-MiniLM-L6-v2",
    )  # fmt: skip
    quantized = _manifest(
        "minilm", "2-int8", "int8", 23_904_112,
        source="minilm@1-fp32",
        recipe=("static-int8+smooth+outliers32",),
        metrics=(
            Metric("cosine_mean", 0.9978, 0.9975, 0.9981, 512),
            extreme_metric("cosine_min", 0.9871, 512),
            share_metric("retrieval_agreement", 497, 512),
            extreme_metric("batch_dependence", 0.0, 96),
        ),
        bounds=(
            Bound("cosine_mean", at_least=0.995),
            Bound("cosine_min", at_least=0.98),
            Bound("retrieval_agreement", at_least=0.95),
            Bound("batch_dependence", at_most=0.02),
        ),
        reference="minilm@1-fp32",
        report={"candidates": candidates()},
    )  # fmt: skip
    speeds = {
        imported.ref: [speed(1.0, memory_mb=322)],
        quantized.ref: [speed(2.48, memory_mb=141), speed(1.6, memory_mb=140, threads=1)],
    }
    return [imported, quantized], speeds


def classifier_versions() -> tuple[list[Manifest], dict[str, list[Speed]]]:
    """A trained classifier, its int8 version and a student that cannot prove its agreement."""
    trained = _manifest(
        "support", "1-fp32", "fp32", 90_950_000,
        source="minilm@1-fp32",
        metrics=(share_metric("accuracy", 1387, 1440),),
        bounds=(),
        reference="labels",
        report={"classes": classes(), "confusion": confusion(), "calibration": calibration()},
        task=Task.CLASSIFICATION,
    )  # fmt: skip
    quantized = _manifest(
        "support", "2-int8", "int8", 23_990_000,
        source="support@1-fp32",
        recipe=("static-int8+smooth",),
        metrics=_classifier_metrics(agreeing=1429, right=1386),
        bounds=_CLASSIFIER_BOUNDS,
        reference="support@1-fp32",
        task=Task.CLASSIFICATION,
    )  # fmt: skip
    student = _manifest(
        "support", "3-student-int8", "int8", 9_500_000,
        source="support@1-fp32",
        recipe=("distil:3-layers", "trim-vocabulary:10000", "static-int8"),
        metrics=_classifier_metrics(agreeing=1399, right=1346),
        bounds=_CLASSIFIER_BOUNDS,
        reference="support@1-fp32",
        task=Task.CLASSIFICATION,
    )  # fmt: skip
    speeds = {
        trained.ref: [speed(1.0, memory_mb=330)],
        quantized.ref: [speed(2.5, memory_mb=144)],
        student.ref: [speed(4.4, memory_mb=96)],
    }
    return [trained, quantized, student], speeds


def candidates() -> list[dict[str, object]]:
    """What the optimiser writes about the schemes it tried."""
    tried = [
        ("dynamic-int8", False, "retrieval_agreement >= 0.95 is not proven", 23_600_000, 368.0, 0.9928, 478),
        ("static-int8", False, "misses cosine_min", 23_700_000, 489.0, 0.9921, 471),
        ("static-int8+smooth", False, "3% slower", 23_800_000, 462.0, 0.9969, 492),
        ("static-int8+smooth+outliers32", True, "fastest within its bounds", 23_904_112, 476.0, 0.9978, 497),
        ("static-int8+smooth+outliers32+float2", False, "18% slower", 29_100_000, 390.0, 0.9985, 500),
    ]
    return [
        {
            "scheme": scheme,
            "chosen": chosen,
            "reason": reason,
            "size_bytes": size_bytes,
            "texts_per_s": rate,
            "metrics": [
                {
                    "name": "cosine_mean",
                    "value": cosine,
                    "low": cosine - 3e-4,
                    "high": cosine + 3e-4,
                    "n": 512,
                },
                vars(share_metric("retrieval_agreement", agreeing, 512)),
            ],
        }
        for scheme, chosen, reason, size_bytes, rate, cosine, agreeing in tried
    ]


def classes() -> list[dict[str, object]]:
    scores = [(label, 0.99 - 0.012 * i, 0.98 - 0.01 * i, 0.985 - 0.011 * i) for i, label in enumerate(LABELS)]
    return [
        {"label": label, "precision": precision, "recall": recall, "f1": f1, "support": 240}
        for label, precision, recall, f1 in scores
    ]


def confusion() -> dict[str, object]:
    matrix = [[232 if i == j else (i * 3 + j * 5) % 4 for j in range(6)] for i in range(6)]
    matrix[3][2] = 14
    return {"labels": list(LABELS), "matrix": matrix}


def calibration() -> dict[str, object]:
    bins = [(0.35, 0.31, 12), (0.55, 0.5, 44), (0.75, 0.7, 160), (0.94, 0.965, 1224)]
    return {"ece": 0.027, "bins": [{"confidence": c, "accuracy": a, "count": n} for c, a, n in bins]}


_CLASSIFIER_BOUNDS = (Bound("label_agreement", at_least=0.97), Bound("batch_dependence", at_most=0.02))


def _classifier_metrics(*, agreeing: int, right: int) -> tuple[Metric, ...]:
    return (
        share_metric("label_agreement", agreeing, 1440),
        extreme_metric("probability_difference_max", 0.081, 1440),
        share_metric("accuracy", right, 1440),
        share_metric("accuracy_reference", 1387, 1440),
        extreme_metric("batch_dependence", 0.0, 96),
    )


def _manifest(
    model: str,
    version: str,
    precision: str,
    size_bytes: int,
    *,
    source: str,
    metrics: tuple[Metric, ...],
    bounds: tuple[Bound, ...],
    reference: str,
    recipe: tuple[str, ...] = (),
    report: dict[str, object] | None = None,
    task: Task = Task.EMBEDDING,
) -> Manifest:
    is_classifier = task is Task.CLASSIFICATION
    return Manifest(
        model=model,
        version=version,
        precision=precision,
        interface=Interface(
            task=task,
            max_tokens=256,
            vocab_size=30_522,
            embedding_dim=None if is_classifier else 384,
            labels=LABELS if is_classifier else (),
        ),
        origin=Origin(
            source=source,
            architecture="bert",
            weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
            recipe=recipe,
        ),
        artefacts=(
            Artefact("model.onnx", "ab" * 32, size_bytes - 466_247),
            Artefact("tokenizer.json", "cd" * 32, 466_247),
        ),
        quality=Quality(
            reference=reference,
            data="sentences.jsonl, 512 texts",
            data_sha256="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            seed=13,
            metrics=metrics,
            bounds=bounds,
            software=SOFTWARE,
        ),
        created_at="2026-03-02T09:12:41+00:00",
        report=report or {},
    )
