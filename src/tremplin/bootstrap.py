"""The first run: from an empty data folder to proven versions, in one go and without a network."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from tremplin.machine import Machine
from tremplin.optimize.bundled import import_bundled
from tremplin.optimize.head.dataset import read_labelled
from tremplin.optimize.measure import BRIEF
from tremplin.optimize.optimiser import Optimisation, optimise
from tremplin.optimize.publish import import_and_publish
from tremplin.optimize.texts import bundled_texts
from tremplin.optimize.train import HeadTraining, train_and_publish
from tremplin.progress import Progress
from tremplin.registry.manifest import Manifest
from tremplin.registry.services import Service, write_services
from tremplin.registry.store import Registry
from tremplin.registry.task import Task
from tremplin.serve.engines.overflow import products_overflow

ENCODER = "minilm"
CLASSIFIER = "support-desk"

# What the first run tries: the scheme that won on the machines measured (docs/decisions/0002), for each further
# one costs five seconds. `tremplin optimize minilm` tries them all, `tremplin bench minilm` measures at leisure.
FIRST_RUN_SCHEMES = ("mixed",)
# What won where int8 products overflow: "mixed" needs kernels there that are a fifth slower (docs/decisions/0011).
FIRST_RUN_SCHEMES_WITHOUT_VNNI = ("narrow",)

# The encoder is English and half of the sentences are French: asking for 0.95 among the texts it answers would
# leave two thirds unanswered.
FIRST_RUN_TARGET = 0.8


def first_run(
    registry: Registry, services_file: Path, machine: Machine, threads: int, progress: Progress
) -> list[Service]:
    """Import the bundled model, optimise it, train the classifier that ships, and declare the services.

    What an interrupted run already published is kept and used.
    """
    encoder = _published(registry, ENCODER, "fp32") or import_and_publish(
        registry,
        import_bundled,
        ENCODER,
        machine,
        threads=threads,
        effort=BRIEF,
        progress=_part(progress, "import", 0.0, 0.3),
    )
    optimised = _published(registry, ENCODER, "int8") or optimise(
        registry,
        encoder,
        bundled_texts(),
        machine,
        Optimisation(schemes=first_run_schemes(machine), threads=threads, effort=BRIEF),
        _part(progress, "optimise", 0.3, 0.7),
    )
    # Only a version whose evidence holds may serve without being forced.
    best = encoder if optimised.quality.broken_bounds() else optimised
    classifier = _published(registry, CLASSIFIER, best.precision)
    if classifier is None:
        with as_file(files("tremplin").joinpath("data", "support_desk")) as folder:
            training = HeadTraining(
                read_labelled(folder / "train.jsonl"),
                "tremplin support desk",
                test=read_labelled(folder / "test.jsonl", min_rows_per_class=0),
                target_accuracy=FIRST_RUN_TARGET,
                threads=threads,
                effort=BRIEF,
            )
        classifier = train_and_publish(
            registry, best, CLASSIFIER, machine, training, _part(progress, "train", 0.7, 1.0)
        )
    services = [
        Service("embed", Task.EMBEDDING, best.ref),
        Service("classify", Task.CLASSIFICATION, classifier.ref),
    ]
    write_services(services_file, services)
    return services


def first_run_schemes(machine: Machine) -> tuple[str, ...]:
    """Return what the first run tries on a machine."""
    return FIRST_RUN_SCHEMES_WITHOUT_VNNI if products_overflow(machine) else FIRST_RUN_SCHEMES


def _published(registry: Registry, model: str, precision: str) -> Manifest | None:
    found = [manifest for manifest in registry.versions(model) if manifest.precision == precision]
    return found[-1] if found else None


def _part(progress: Progress, name: str, low: float, high: float) -> Progress:
    return lambda step, share: progress(f"{name}: {step}", low + (high - low) * share)
