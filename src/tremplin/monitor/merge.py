"""Metrics of several processes as one exposition: counters add up, and so do most gauges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

# What is not a sum over processes.
OTHERWISE: dict[str, Callable[[float, float], float]] = {
    "tremplin_build_info": max,
    "tremplin_version_forced_info": max,
    "tremplin_cost_drift_ratio": max,
    "tremplin_engine_healthy": min,
}


def merge(expositions: Sequence[str]) -> bytes:
    """Return several expositions in Prometheus' text form as one."""
    if len(expositions) == 1:
        return expositions[0].encode()
    families: dict[str, Metric] = {}
    for exposition in expositions:
        for family in text_string_to_metric_families(exposition):
            kept = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            _add(kept, family.samples, OTHERWISE.get(family.name, float.__add__))
    registry = CollectorRegistry()
    registry.register(_Families(families))
    return generate_latest(registry)


def _add(kept: Metric, samples: Sequence[Sample], combine: Callable[[float, float], float]) -> None:
    places = {(s.name, tuple(sorted(s.labels.items()))): i for i, s in enumerate(kept.samples)}
    for sample in samples:
        place = places.get((sample.name, tuple(sorted(sample.labels.items()))))
        if place is None:
            kept.samples.append(sample)
        else:
            held = kept.samples[place]
            kept.samples[place] = held._replace(value=combine(float(held.value), float(sample.value)))


class _Families(Collector):
    """Families that are there already."""

    def __init__(self, families: dict[str, Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families.values()
