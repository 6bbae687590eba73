"""What ``tremplin optimize --labelled`` does: a study, its table, and what is published of it."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from json import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tremplin.cli.show import out, print_json, progress_bar
from tremplin.config import Settings
from tremplin.errors import BadInput
from tremplin.machine import read_machine
from tremplin.registry.files import write_atomically
from tremplin.wiring import Places, open_registry, threads_of

if TYPE_CHECKING:
    from tremplin.optimize.recipes.corpus import Corpus
    from tremplin.optimize.recipes.evidence import Examiner
    from tremplin.optimize.recipes.options import Picked
    from tremplin.optimize.recipes.recipe import Recipe
    from tremplin.optimize.recipes.stage import Stage
    from tremplin.optimize.recipes.steps import Workshop
    from tremplin.optimize.recipes.study import CascadeRecipe, Study, StudyOptions

SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class StudyOrder:
    """What the command line asked for."""

    version: str
    labelled: Path | None
    name: str
    test: Path | None
    validation: Path | None
    unlabelled: Path | None
    out_of_scope: Path | None
    queries: Path | None
    passages: Path | None
    recipes: Path | None
    search: bool
    budget: str
    slo: str
    allowed_loss: float
    text_column: str
    label_column: str
    publishes: bool
    seed: int


def study(settings: Settings, order: StudyOrder, *, json: bool) -> None:
    """Run a study, print its table, publish what the gate and the objective let pass."""
    from tremplin.optimize.optimiser import float_parent
    from tremplin.optimize.recipes.options import pick_for
    from tremplin.optimize.recipes.publish import publish_from_run, write_drafts
    from tremplin.optimize.recipes.run_folder import RunFolder
    from tremplin.optimize.recipes.runner import first_stage
    from tremplin.optimize.recipes.steps import Workshop
    from tremplin.optimize.recipes.study import StudyOptions, run_study
    from tremplin.optimize.slo import read_slo

    objective = read_slo(order.slo) if order.slo else None
    seconds = read_budget(order.budget)
    registry, machine = open_registry(settings), read_machine()
    source = float_parent(registry, order.version)
    name = order.name or f"{source.model}-study"
    run = RunFolder(Places(settings.data).runs, name)
    corpus = _corpus(order)
    threads = threads_of(settings, machine)
    options = StudyOptions(allowed_points=order.allowed_loss, race_threads=threads)
    command = "tremplin " + shlex.join(sys.argv[1:])
    with progress_bar("Optimise", quiet=json) as shown, run.working(command, source.ref, shown) as progress:
        workshop = Workshop(corpus, machine.cores, order.seed, progress)
        start = first_stage(registry, source, run.path / "stages")
        chosen, cascades, wants = _recipes(order, start, seconds)
        found = run_study(
            chosen, start, run.path, workshop, options, examiner=_examiner(order, workshop, options),
            cascades=cascades, progress=progress, wants_more=wants,
        )  # fmt: skip
        picked = pick_for(found, objective, workshop, machine) if objective else None
        # An encoder's reference is the version it began with, which is published already.
        wanted = [found.reference] if order.labelled is not None else []
        if picked is None:
            wanted += [e for e in found.entries if e.evidence.verdict and e.evidence.verdict.passes and e.on_front]
        elif picked.choice.picked is not None:
            wanted += [found.entry(picked.choice.picked.ref)]
        write_drafts(found, run.path, source, corpus, name, allowed_points=order.allowed_loss, seed=order.seed)
        published = {
            entry.name: publish_from_run(registry, run.path, entry.name, machine=machine, threads=threads).ref
            for entry in ({one.name: one for one in wanted}.values() if order.publishes else ())
        }
        note_outcome(run.path, published, picked)
    run.add_published(tuple(published.values()))
    if json:
        from tremplin.optimize.recipes.study import as_json

        print_json(as_json(found) | {"published": published, "choice": str(picked.choice) if picked else None})
    else:
        _print(found, published, picked)
    if picked is not None and picked.choice.picked is None:
        raise typer.Exit(1)


def _corpus(order: StudyOrder) -> Corpus:
    from tremplin.optimize.recipes.corpus import read_corpus, read_text_corpus

    if order.labelled is None:
        if order.unlabelled is None:
            raise BadInput("A study needs texts: give --labelled or --unlabelled.")
        return read_text_corpus(order.unlabelled, seed=order.seed)
    return read_corpus(
        order.labelled,
        validation=order.validation,
        test=order.test,
        unlabelled=order.unlabelled,
        out_of_scope=order.out_of_scope,
        text_column=order.text_column,
        label_column=order.label_column,
        seed=order.seed,
    )


def _examiner(order: StudyOrder, workshop: Workshop, options: StudyOptions) -> Examiner:
    from tremplin.optimize.gate import Gate
    from tremplin.optimize.recipes.evidence import EncoderExaminer
    from tremplin.optimize.recipes.search_set import read_search_set
    from tremplin.optimize.recipes.study import classifier_examiner

    if order.labelled is not None:
        return classifier_examiner(workshop, options)
    searched = read_search_set(order.queries, order.passages) if order.queries and order.passages else None
    gate = Gate(options.allowed_points)
    return EncoderExaminer(workshop.corpus, gate, searched, threads=workshop.threads, seed=workshop.seed)


def note_outcome(run: Path, published: dict[str, str], picked: Picked | None) -> None:
    """Add to the study's file what an objective picked and what was published, for its report."""
    from tremplin.optimize.recipes.run_folder import STUDY_FILE

    document = loads((run / STUDY_FILE).read_bytes())
    for entry in document["entries"]:
        entry["published"] = published.get(entry["name"])
    if picked is not None:
        document["choice"] = str(picked.choice)
        document["chosen"] = picked.choice.picked.ref if picked.choice.picked is not None else None
    write_atomically(run / STUDY_FILE, dumps(document, ensure_ascii=False, indent=1).encode())


def read_budget(text: str) -> float:
    """Return seconds from ``90s``, ``15m`` or ``2h``; raises BadInput."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh])\s*", text)
    if match is None or float(match.group(1)) <= 0:
        raise BadInput(f"{text!r} is not a time; write it such as '90s', '15m' or '2h'.")
    return float(match.group(1)) * SECONDS[match.group(2)]


def _recipes(
    order: StudyOrder, start: Stage, seconds: float
) -> tuple[Sequence[Recipe], Sequence[CascadeRecipe], Callable[[Recipe], bool]]:
    """Return recipes, cascades and the question whether one more may be begun."""
    from tremplin.optimize.recipes.recipe import read_recipes
    from tremplin.optimize.recipes.search import Budget, proposals
    from tremplin.optimize.recipes.tiers import CASCADE, ENCODER_TIERS, TEACHER, TIERS

    if order.recipes is not None:
        return read_recipes(order.recipes), (), lambda _: True
    if order.search:
        budget = Budget(seconds)
        teacher = TEACHER if order.labelled is not None else None
        return proposals(teacher, len(start.network().weights.layers)), (), budget.wants
    if order.labelled is None:
        return ENCODER_TIERS, (), lambda _: True
    return TIERS, (CASCADE,), lambda _: True


def _print(found: Study, published: dict[str, str], picked: Picked | None) -> None:
    reference = found.reference
    out.print(
        f"{'version':<12} {'MB':>6} {reference.quality:>9} {'loss':>6} {'at most':>8} {'alone':>7} {'in 32':>7} "
        f"{'p50 ms':>7}",
        highlight=False,
    )
    for entry in found.entries:
        verdict, quality = entry.evidence.verdict, entry.evidence.metric(entry.quality)
        if entry.speed is None or reference.speed is None or quality is None:
            continue
        alone, batched = entry.speed.against(reference.speed)
        loss = f"{verdict.loss.points:6.2f} {verdict.loss.upper:8.2f}" if verdict else f"{'':>6} {'':>8}"
        mark = "*" if entry.on_front else " "
        says = "" if verdict is None or verdict.passes else f"  [yellow]{verdict.reasons[0]}[/yellow]"
        out.print(
            f"{entry.name:<11}{mark} {entry.evidence.size_bytes / 1e6:6.1f} {100 * quality.value:9.2f} {loss} "
            f"{alone[0]:6.1f}x {batched[0]:6.1f}x {entry.speed.p50_ms:7.2f}{says}",
            highlight=False,
        )
    out.print("* on the front: nothing else is better in quality, latency, throughput and size at once")
    for failure in found.failures:
        out.print(f"[yellow]Failed    {failure.name}: {failure.reason}[/yellow]")
    if picked is not None:
        out.print(f"Objective {picked.choice}")
        for rejected in picked.choice.rejected:
            out.print(f"          {rejected.option}: {rejected.reason}", highlight=False)
    for name, ref in published.items():
        out.print(f"Published {ref} ({name})")
