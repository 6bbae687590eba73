"""What each step of a recipe did, in words: layers left, weights kept, texts cut anew, zeros.

A step notes facts by name (``recipes/steps/``); here each name gets its sentence. A fact without one is shown as
it is, so that a new step is not silent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tremplin.optimize.report.numbers import NO_BREAK_SPACE, number, significant, size
from tremplin.optimize.report.study_file import StepRecord, StudyEntry

Facts = Mapping[str, Any]

ZEROS_ONLY_COMPRESS = "zeros only help the compressed size: nothing here runs them faster"
TRAINED = ("fine-tune", "few-shot", "pairs", "distil")
"""Steps that leave a learning curve."""
RESHAPED = (*TRAINED[:1], "distil", "prune", "drop-layers", "static", "bigrams")
OF_STEP = {
    "layers": "drop-layers",
    "encoder_weights_kept": "prune",
    "words": "trim-vocabulary",
    "resegmented_validation": "trim-vocabulary",
    "resegmented_out_of_scope": "trim-vocabulary",
    "texts": "distil",
    "sparsity": "sparsify",
    "compressed_bytes": "sparsify",
    "compressed_bytes_before": "sparsify",
    "l2": "head",
    "temperature": "head",
    "threshold": "cascade",
    "escalated_validation": "cascade",
    "escalated_test": "cascade",
    "escalated_out_of_scope": "cascade",
}
"""Which step notes a fact, for studies that keep the facts of all steps together."""


def steps_of(entry: StudyEntry) -> tuple[StepRecord, ...]:
    """Return the steps of a version, each with its time and its facts."""
    # What it began with is no step of the recipe.
    told = tuple(record for record in entry.lineage if record.step in entry.steps)
    known = {key for record in told for key in record.facts}
    left = {key: value for key, value in entry.facts.items() if key not in known}
    found = []
    # From the end: a fact that two steps noted is the later one's. Joining two versions is in no lineage.
    for step in reversed(entry.steps[len(told) :]):
        mine = {key: left.pop(key) for key in tuple(left) if _is_of(key, kind_of(step))}
        found.append(StepRecord(step, entry.seconds.get(step), mine))
    found.reverse()
    if left:
        found.append(StepRecord("in all", None, left))
    return (*told, *found)


def kind_of(step: str) -> str:
    """Return a step's name without its options.

    >>> kind_of("drop-layers(keep=4)")
    'drop-layers'
    """
    return step.partition("(")[0]


def facts_in_words(facts: Facts) -> str:
    """Return what a step did as one sentence without its full stop; empty when it noted nothing."""
    known = [(keys, said) for keys, said in SENTENCES if all(key in facts for key in keys)]
    told = {key for keys, _ in known for key in keys} | {key for key in ASIDE if key in facts}
    sentences = [_said(said, facts, keys) for keys, said in known]
    sentences += [f"{key.replace('_', ' ')} {_plain(value)}" for key, value in facts.items() if key not in told]
    return "; ".join(sentence for sentence in sentences if sentence)


def seconds_in_words(seconds: float | None) -> str:
    """Return a time of work: seconds, then minutes, then hours.

    >>> seconds_in_words(0.04), seconds_in_words(384), seconds_in_words(None)
    ('0.0\\xa0s', '6.4\\xa0min', '—')
    """
    if seconds is None:
        return "—"
    if seconds < 100:
        return f"{number(seconds, 0 if seconds >= 10 else 1)}{NO_BREAK_SPACE}s"
    if seconds < 7200:
        return f"{number(seconds / 60, 1)}{NO_BREAK_SPACE}min"
    return f"{number(seconds / 3600, 1)}{NO_BREAK_SPACE}h"


def worked_seconds(entries: Sequence[StudyEntry]) -> float:
    """Return how long all steps took; steps that versions share are counted once."""
    seen: dict[tuple[str, ...], float] = {}
    for entry in entries:
        records = steps_of(entry)
        for count, record in enumerate(records, 1):
            seen[tuple(item.step for item in records[:count])] = record.seconds or 0.0
    return sum(seen.values())


def per_cent(share: float) -> str:
    """Return a share in per cent with a sensible number of digits.

    >>> per_cent(0.314), per_cent(0.0042)
    ('31.4\\xa0%', '0.42\\xa0%')
    """
    decimals = 1 if share >= 0.01 or share == 0 else 2
    return f"{number(100 * share, decimals)}{NO_BREAK_SPACE}%"


def _is_of(fact: str, kind: str) -> bool:
    return kind in RESHAPED if fact == "shape" else OF_STEP.get(fact) == kind


def _said(said: Callable[[Facts], str], facts: Facts, keys: Sequence[str]) -> str:
    """Return the sentence, or the bare facts when they are of another form than expected."""
    try:
        return said(facts)
    except (TypeError, ValueError):
        return ", ".join(f"{key.replace('_', ' ')} {_plain(facts[key])}" for key in keys)


def _layers(facts: Facts) -> str:
    numbers = [str(int(layer) + 1) for layer in facts["layers"]]
    listed = numbers[0] if len(numbers) == 1 else f"{', '.join(numbers[:-1])} and {numbers[-1]}"
    return f"{'layer' if len(numbers) == 1 else 'layers'} {listed} kept"


def _resegmented(facts: Facts) -> str:
    share = float(facts["resegmented_validation"])
    words = f"{per_cent(share)} of the validation texts are cut into other tokens than before"
    outside = facts.get("resegmented_out_of_scope")
    return words if outside is None else f"{words}, {per_cent(float(outside))} of those out of scope"


def _zeros(facts: Facts) -> str:
    before, after = (size(float(facts[key])) for key in ("compressed_bytes_before", "compressed_bytes"))
    zeros = per_cent(float(facts["sparsity"]))
    return f"{zeros} of the weights are 0, {after} compressed instead of {before}; {ZEROS_ONLY_COMPRESS}"


def _threshold(facts: Facts) -> str:
    gone = [
        f"{per_cent(float(facts[key]))} of {of}"
        for key, of in (
            ("escalated_validation", "validation texts"),
            ("escalated_test", "test texts"),
            ("escalated_out_of_scope", "texts out of scope"),
        )
        if key in facts
    ]
    words = f"the first answers when it is at least {per_cent(float(facts['threshold']))} sure"
    return f"{words}; {', '.join(gone)} go on to the second" if gone else words


SENTENCES: tuple[tuple[tuple[str, ...], Callable[[Facts], str]], ...] = (
    (("layers",), _layers),
    (
        ("encoder_weights_kept",),
        lambda f: f"{per_cent(float(f['encoder_weights_kept']))} of the layers’ weights kept",
    ),
    (("words",), lambda f: f"{number(int(f['words']))} words of the vocabulary kept"),
    (("resegmented_validation",), _resegmented),
    (("texts",), lambda f: f"learned from {number(int(f['texts']))} texts"),
    (("sparsity", "compressed_bytes", "compressed_bytes_before"), _zeros),
    (("l2",), lambda f: f"L2 penalty {significant(float(f['l2']))}"),
    (("temperature",), lambda f: f"temperature {significant(float(f['temperature']))}"),
    (("threshold",), _threshold),
    (("shape",), lambda f: str(f["shape"])),
)
ASIDE = ("resegmented_out_of_scope", "escalated_validation", "escalated_test", "escalated_out_of_scope")
"""Facts told in another one's sentence."""


def _plain(value: object) -> str:
    return significant(value) if isinstance(value, float) else str(value)
