"""Bringing what is served in line with what is declared, while requests go on.

A version that is declared is loaded and warmed up beside those that serve; then all names point to it at once.
A version that is declared no more is asked nothing new, answers what it has, and is freed. Nothing fails in
between: whoever has found a version keeps it until he is answered.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from tremplin.errors import TremplinError, UnknownModel
from tremplin.registry.manifest import Manifest
from tremplin.registry.services import Service, read_services, write_services
from tremplin.registry.store import Registry
from tremplin.registry.task import Task
from tremplin.serve.cache import ResultCache
from tremplin.serve.documents import DocumentIndex
from tremplin.serve.infer import Inferencer
from tremplin.serve.services import Services

LOOK_EVERY_S = 0.5

log = structlog.get_logger()


@dataclass(frozen=True)
class DeployPlaces:
    """Files that a deployment reads and writes."""

    services: Path | None
    """The declared services; None when the command line declared them."""
    vectors: Path | None
    """Vectors of documents."""


class Deployment:
    """What is declared and what is loaded. Its coroutines run on the event loop."""

    def __init__(
        self,
        services: Services,
        registry: Registry,
        build: Callable[[Manifest], Inferencer],
        cache: ResultCache,
        places: DeployPlaces,
    ) -> None:
        self._services = services
        self._registry = registry
        self._build = build
        self._cache = cache
        self._places = places
        self._changing = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self._seen = self._written()
        self.declared: list[Service] = []

    def start(self, declared: Sequence[Service]) -> None:
        """Load the first versions, one after the other. Blocks; called before the event loop runs.

        Side by side would save 0.1 s and cost 14 MB of the allocator's per-thread pools.
        """
        loaded: dict[str, Inferencer] = {}
        for service in declared:
            if service.version not in loaded:
                loaded[service.version] = self._load(service.version)
        self._services.fleet.replace(list(loaded.values()), _defaults(declared, loaded))
        self.declared = list(declared)

    def stop(self) -> None:
        """Answer what is queued and free everything. Blocks."""
        for inferencer in self._services.fleet.inferencers:
            inferencer.stop()

    async def apply(self, declared: Sequence[Service]) -> None:
        """Serve what is declared. Raises the errors of a version that cannot be loaded; then nothing changed."""
        async with self._changing:
            await self._apply(declared)

    async def load(self, model: str, version: str | None = None) -> Manifest:
        """Serve the newest, or a named, version of a model from now on, in the place of the one that served."""
        manifest = self._registry.resolve(model if version is None else f"{model}@{version}")
        async with self._changing:
            await self._declare(_with(manifest, self.declared))
        return manifest

    async def unload(self, model: str) -> None:
        """Serve no version of a model any more; raises UnknownModel when none is served."""
        async with self._changing:
            kept = [service for service in self.declared if service.model != model]
            if len(kept) == len(self.declared):
                raise UnknownModel(f"There is no model {model[:80]!r} loaded here.")
            await self._declare(kept)

    async def follow(self) -> None:
        """Follow the file of declared services for ever; what cannot be loaded is logged and left out."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            written = self._written()
            if self._places.services is None or written == self._seen:
                continue
            self._seen = written
            try:
                await self.apply(read_services(self._places.services))
            except TremplinError as error:
                log.exception("the declared services cannot be served", reason=str(error))

    # -- how ----------------------------------------------------------------------------------------

    async def _declare(self, declared: list[Service]) -> None:
        await self._apply(declared)
        if self._places.services is not None:
            await asyncio.to_thread(write_services, self._places.services, declared)
            self._seen = self._written()

    async def _apply(self, declared: Sequence[Service]) -> None:
        fleet = self._services.fleet
        before = {inferencer.manifest.ref: inferencer for inferencer in fleet.inferencers}
        loaded = {ref: before[ref] for ref in dict.fromkeys(s.version for s in declared) if ref in before}
        new: list[Inferencer] = []
        try:
            for service in declared:
                if service.version not in loaded:
                    loaded[service.version] = await asyncio.to_thread(self._load, service.version)
                    new.append(loaded[service.version])
            ordered = {service.version: loaded[service.version] for service in declared}
            defaults = _defaults(declared, ordered)
            index = await self._index(defaults)
        except BaseException:
            for inferencer in new:
                await asyncio.to_thread(inferencer.stop)
            raise
        fleet.replace(list(ordered.values()), defaults)
        self._services.index = index
        self.declared = list(declared)
        for ref, inferencer in before.items():
            if ref not in ordered:
                retiring = asyncio.ensure_future(self._retire(inferencer))
                self._retiring.add(retiring)
                retiring.add_done_callback(self._retiring.discard)
        log.info("serving", versions=list(ordered))

    async def _index(self, defaults: dict[Task, Inferencer]) -> DocumentIndex | None:
        """Return the documents as the default version sees them; what there is when that has not changed."""
        index, encoder = self._services.index, defaults.get(Task.EMBEDDING)
        if encoder is None or not self._services.documents:
            return None
        if index is not None and index.inferencer is encoder:
            return index
        return await DocumentIndex.of(encoder, self._services.documents, self._places.vectors)

    async def _retire(self, inferencer: Inferencer) -> None:
        await inferencer.wait_unused()
        await asyncio.to_thread(inferencer.stop)
        await self._cache.drop(inferencer.keys.version)
        log.info("retired", version=inferencer.manifest.ref)

    def _load(self, ref: str) -> Inferencer:
        inferencer = self._build(self._registry.resolve(ref))
        inferencer.start()
        return inferencer

    def _written(self) -> tuple[int, int]:
        if self._places.services is None:
            return (0, 0)
        try:
            status = os.stat(self._places.services)
        except FileNotFoundError:
            return (0, 0)
        return (status.st_mtime_ns, status.st_ino)


def _with(manifest: Manifest, declared: Sequence[Service]) -> list[Service]:
    """Return the declared services with this version in the place of its model's others, or added."""
    task = manifest.interface.task
    if all(service.model != manifest.model for service in declared):
        return [*declared, Service(task.value, task, manifest.ref)]
    return [
        replace(service, task=task, version=manifest.ref) if service.model == manifest.model else service
        for service in declared
    ]


def _defaults(declared: Sequence[Service], loaded: dict[str, Inferencer]) -> dict[Task, Inferencer]:
    """Return which version answers for a task when the caller names none: the first that was declared."""
    defaults: dict[Task, Inferencer] = {}
    for service in declared:
        defaults.setdefault(service.task, loaded[service.version])
    return defaults
