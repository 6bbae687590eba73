"""The composition root: settings become stores, engines, services and the application."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path

import structlog
from starlette.types import ASGIApp

from tremplin import __version__
from tremplin.config import Settings
from tremplin.console.desk import RunDesk
from tremplin.console.processes import DetachedLauncher
from tremplin.console.router import console_routes
from tremplin.console.uploads import FORM_ROOM_BYTES
from tremplin.console.view import ConsoleView, LiveVersion
from tremplin.errors import BadInput, StartFailed
from tremplin.gateway.app import build_app
from tremplin.gateway.routes import cohere, native, openai, operations, tei, v2
from tremplin.gateway.siblings import Report, Siblings
from tremplin.gateway.state import ServerState
from tremplin.machine import Machine, read_machine
from tremplin.monitor.batches import RecentBatches
from tremplin.monitor.logs import NO_ACCESS_LOG, AccessLog
from tremplin.monitor.metrics import Metrics
from tremplin.optimize.engines import EngineChoice, choose_engines
from tremplin.optimize.measure import BRIEF
from tremplin.registry.files import secret_in
from tremplin.registry.manifest import TOKENIZER_FILE, Manifest
from tremplin.registry.services import Service
from tremplin.registry.store import Registry, check_servable
from tremplin.serve.admit import Admission, AdmissionLimits
from tremplin.serve.batch import BatchLimits
from tremplin.serve.cache import NoCache, ResultCache
from tremplin.serve.costs import CostModel, token_budget
from tremplin.serve.deploy import Deployment, DeployPlaces
from tremplin.serve.engine import Engine
from tremplin.serve.engines.catalogue import EngineSpec
from tremplin.serve.engines.process import ProcessEngine
from tremplin.serve.engines.routed import RoutedCosts, RoutedEngine
from tremplin.serve.fleet import Fleet
from tremplin.serve.infer import Inferencer
from tremplin.serve.services import Services
from tremplin.serve.supervisor import TimeLimit, time_limit
from tremplin.serve.tokenize import UNUSABLE, TextTokenizer
from tremplin.serve.work import BatchRecord
from tremplin.store.keys import KeyRing
from tremplin.store.memory_cache import MemoryCache
from tremplin.store.redis_cache import RedisCache
from tremplin.store.tickets import Tickets
from tremplin.tasks.search import Document

MAX_DOCUMENTS = 50_000

log = structlog.get_logger()


@dataclass(frozen=True)
class Places:
    """Where things lie in the data folder."""

    root: Path

    @property
    def registry(self) -> Path:
        """Versions and their artefacts."""
        return self.root / "registry"

    @property
    def services(self) -> Path:
        """Which version answers for which task."""
        return self.root / "services.json"

    @property
    def keys(self) -> Path:
        """API keys and the pepper."""
        return self.root / "keys"

    @property
    def vectors(self) -> Path:
        """Vectors of documents; may be deleted, they are computed again."""
        return self.root / "vectors"

    @property
    def engines(self) -> Path:
        """What engines read instead of a version's graph; may be deleted, it is made again."""
        return self.root / "engines"

    @property
    def runs(self) -> Path:
        """Optimising runs: their stages, versions and results."""
        return self.root / "runs"

    @property
    def tickets(self) -> Path:
        """One-time tickets of the console."""
        return self.root / "keys" / "tickets"

    @property
    def session_secret(self) -> Path:
        """Signs the console's cookies."""
        return self.root / "keys" / "session"


@dataclass(frozen=True)
class Server:
    """A server, built and not yet started."""

    app: ASGIApp
    state: ServerState
    services: Services
    deployment: Deployment
    cache: ResultCache
    metrics: Metrics
    keys: KeyRing
    tickets: Tickets
    siblings: Siblings
    threads: int


@dataclass(frozen=True)
class WorkerPlace:
    """Where a worker stands among the others of its server."""

    folder: Path
    """Where they meet."""
    index: int


def threads_of(settings: Settings, machine: Machine) -> int:
    """Return the threads that compute one batch: what was asked for, else a share of the usable cores."""
    return settings.threads or max(1, machine.cores // (settings.workers * settings.streams))


def open_registry(settings: Settings) -> Registry:
    """Return the registry in the data folder; raises StartFailed when the folder cannot be used."""
    with _in_data_folder(settings):
        return Registry(Places(settings.data).registry)


def open_keys(settings: Settings) -> KeyRing:
    """Return the API keys in the data folder; raises StartFailed when the folder cannot be used."""
    with _in_data_folder(settings):
        return KeyRing(Places(settings.data).keys)


def open_tickets(settings: Settings) -> Tickets:
    """Return the one-time tickets of the console; raises StartFailed when the folder cannot be used."""
    with _in_data_folder(settings):
        return Tickets(Places(settings.data).tickets)


@contextmanager
def _in_data_folder(settings: Settings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StartFailed(
            f"The data folder {settings.data} cannot be used: {error.strerror}. Choose another with --data."
        ) from None


def build_server(
    settings: Settings,
    registry: Registry,
    forced: frozenset[str] = frozenset(),
    access_log: AccessLog = NO_ACCESS_LOG,
    *,
    follows_file: bool = True,
    place: WorkerPlace | None = None,
) -> Server:
    """Return the server; its deployment loads the versions.

    It follows the file of declared services, or serves what it is told when ``follows_file`` is false.
    """
    places = Places(settings.data)
    machine = read_machine()
    threads = threads_of(settings, machine)
    metrics, batches = Metrics(), RecentBatches()
    state = ServerState()
    fleet = Fleet()
    metrics.watch(fleet)
    services = Services(fleet, read_documents(settings.documents))
    cache = _cache(settings)

    siblings = Siblings(
        lambda: Report(metrics.exposition().decode(), batches.newest()),
        None if place is None else place.folder,
        0 if place is None else place.index,
    )

    def on_batch(manifest: Manifest, record: BatchRecord) -> None:
        metrics.batch(manifest, record)
        batches.batch(manifest, record)

    assembly = _Assembly(settings, registry, machine, threads, cache, forced, on_batch)
    deployment = Deployment(
        services,
        registry,
        assembly.inferencer,
        cache,
        DeployPlaces(places.services if follows_file else None, places.vectors),
    )
    keys = open_keys(settings)
    tickets = open_tickets(settings)

    def check_key(key: str) -> bool:
        return keys.check(key) is not None

    def is_operator_key(key: str) -> bool:
        found = keys.check(key)
        return found is not None and found.is_operator

    view = ConsoleView(
        services=services,
        registry=registry,
        live=lambda: _live(deployment.declared, fleet, threads),
        state=lambda: state.name,
        check_key=check_key,
        is_operator_key=is_operator_key,
        is_open=not settings.auth,
        redeem_ticket=tickets.redeem,
        runs=run_desk(settings, registry, threads),
        session_secret=secret_in(places.session_secret),
        version=__version__,
    )
    endpoints = (
        *openai.endpoints(services, metrics),
        *cohere.endpoints(services, metrics),
        *tei.endpoints(services, metrics),
        *native.endpoints(services, metrics),
        *v2.endpoints(services, metrics, state, deployment, registry),
        *operations.endpoints(services, state, siblings),
    )
    app = build_app(
        endpoints,
        console_routes(view),
        state=state,
        metrics=metrics,
        access_log=access_log,
        find_key=keys.check if settings.auth else None,
        max_body_bytes=settings.max_body_bytes,
    )
    return Server(app, state, services, deployment, cache, metrics, keys, tickets, siblings, threads)


def run_desk(settings: Settings, registry: Registry, threads: int) -> RunDesk:
    """Return where the console starts optimising runs; what they publish is measured with ``threads``."""

    def publish_version(registry: Registry, run: Path, name: str) -> Manifest:
        from tremplin.optimize.recipes.publish import publish_from_run

        return publish_from_run(registry, run, name, threads=threads)

    return RunDesk(
        Places(settings.data.resolve()).runs,
        registry,
        DetachedLauncher(),
        publish_version,
        options=(f"--threads={threads}", f"--data={settings.data.resolve()}"),
        # The edge reads no body that is larger, whoever sends it.
        max_upload_bytes=max(0, settings.max_body_bytes - FORM_ROOM_BYTES),
    )


def measure_missing(
    settings: Settings, registry: Registry, services: Sequence[Service], forced: frozenset[str]
) -> None:
    """Measure the speed of the versions for which this machine has none; raises what keeps one from serving."""
    machine = read_machine()
    assembly = _Assembly(
        settings,
        registry,
        machine,
        threads_of(settings, machine),
        NoCache(),
        forced,
        lambda manifest, record: None,
    )
    for service in services:
        assembly.inferencer(registry.resolve(service.version))


def read_documents(path: Path | None) -> list[Document]:
    """Return the documents that search looks in; the bundled help articles when no file is given.

    Raises BadInput naming the line that is not a document.
    """
    if path is None:
        text = files("tremplin").joinpath("data", "help_articles.jsonl").read_text("utf-8")
    else:
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"The documents {path} cannot be read as UTF-8 text: {error}") from None
    documents = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            document = Document(
                str(row["id"]), str(row.get("title", "")), str(row["text"]), str(row.get("lang", ""))
            )
        except (ValueError, KeyError, TypeError):
            raise BadInput(
                f'{path}, line {number}: expected {{"id": ..., "text": ...}} and perhaps "title" and "lang".'
            ) from None
        if UNUSABLE.search(document.title + document.text):
            raise BadInput(f"{path}, line {number}: the text holds NUL or half of a surrogate pair. Remove it.")
        documents.append(document)
        if len(documents) > MAX_DOCUMENTS:
            raise BadInput(f"{path} holds more than {MAX_DOCUMENTS:,} documents; search here is exact and small.")
    return documents


def _cache(settings: Settings) -> ResultCache:
    if settings.cache_url:
        return RedisCache(settings.cache_url)
    share = settings.cache_bytes // settings.workers
    return MemoryCache(share) if share else NoCache()


@dataclass(frozen=True)
class _Assembly:
    """What every loaded version is built from."""

    settings: Settings
    registry: Registry
    machine: Machine
    threads: int
    cache: ResultCache
    forced: frozenset[str]
    on_batch: Callable[[Manifest, BatchRecord], None]
    tokenizers: dict[str, TextTokenizer] = field(default_factory=dict)
    """By content: an encoder and the classifier on it share one, 8 MB each."""

    def inferencer(self, manifest: Manifest) -> Inferencer:
        """Return a version ready to be started; raises NotServable for one without evidence."""
        broken = check_servable(manifest, forced=manifest.ref in self.forced)
        settings = self.settings
        choice = self._engines(manifest)
        costs = CostModel(choice.costs[0]) if len(choice.specs) == 1 else RoutedCosts(choice.costs)
        limits = AdmissionLimits(
            max_rows_per_request=settings.max_rows_per_request,
            max_tokens_per_request=settings.max_tokens_per_request,
            max_queue_tokens=settings.max_queue_tokens,
            max_queue_s=settings.max_queue_s,
        )
        limit = time_limit(costs, settings.batch_timeout_s)
        return Inferencer(
            manifest,
            self._tokenizer(manifest),
            partial(self._engine, choice.specs, costs, limit),
            Admission(limits, costs, streams=settings.streams),
            costs,
            BatchLimits(settings.max_batch_tokens or token_budget(costs.costs), settings.max_batch_rows),
            limit,
            streams=settings.streams,
            cache=self.cache,
            broken_bounds=broken,
            on_batch=self.on_batch,
        )

    def _tokenizer(self, manifest: Manifest) -> TextTokenizer:
        interface = manifest.interface
        key = f"{manifest.artefact(TOKENIZER_FILE).sha256} {interface.max_tokens} {interface.vocab_size}"
        if key not in self.tokenizers:
            self.tokenizers[key] = TextTokenizer(self.registry.path(manifest, TOKENIZER_FILE), interface)
        return self.tokenizers[key]

    def _engines(self, manifest: Manifest) -> EngineChoice:
        """Return the engines for a version, measured and judged now where that was not done on this machine."""
        places = Places(self.settings.data)
        choice = choose_engines(
            self.registry,
            manifest,
            self.machine,
            wanted=self.settings.engine,
            threads=self.threads,
            folder=places.engines,
            effort=BRIEF,
        )
        for verdict in choice.verdicts:
            log.info(
                "engine", version=manifest.ref, engine=verdict.engine, kept=verdict.is_kept, reason=verdict.reason
            )
        return choice

    def _engine(self, specs: Sequence[EngineSpec], costs: CostModel, limit: TimeLimit) -> Engine:
        """Make what runs the batches of one version."""
        made = [
            ProcessEngine(spec, limit) if self.settings.engine_process else spec.make()
            for spec in (spec.with_streams(self.settings.streams) for spec in specs)
        ]
        return RoutedEngine(made, costs) if isinstance(costs, RoutedCosts) else made[0]


def _live(declared: Sequence[Service], fleet: Fleet, threads: int) -> list[LiveVersion]:
    live = []
    for service in declared:
        inferencer = fleet.find(service.version)
        live.append(
            LiveVersion(
                service=service.name,
                ref=inferencer.manifest.ref,
                task=inferencer.manifest.interface.task,
                forced=bool(inferencer.broken_bounds),
                broken_bounds=inferencer.broken_bounds,
                engine=inferencer.engine.name,
                threads=threads,
            )
        )
    return live
