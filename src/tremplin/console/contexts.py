"""What each page and fragment is given: one frozen dataclass each. A template reads nothing else.

Numbers are raw (the template writes them in the reader's language) and every context can be had as JSON
with ``?format=json``. A field marked ``PICTURE`` is drawn from the others and left out of the JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Literal

from tremplin.console.view import LiveVersion, State
from tremplin.registry.manifest import Artefact
from tremplin.registry.passport import Speed

PICTURE = {"json": False}

ServiceName = Literal["classify", "embed", "similarity", "search", "zero-shot", "explain"]
Theme = Literal["system", "light", "dark"]
BoundState = Literal["met", "broken", "none", "reference"]
StateOfRun = Literal["starting", "running", "stopped", "done", "failed"]
RefusalKind = Literal[
    "busy", "not_ours", "not_ready", "no_torch",
    "model_unknown", "name_invalid", "name_taken", "name_is_model",
    "loss_invalid", "minutes_invalid", "column_invalid",
    "no_file", "empty_file", "too_large", "spreadsheet", "binary", "nul", "encoding", "unusable", "no_room",
]  # fmt: skip

# -- the frame, around every page ------------------------------------------------------------------


@dataclass(frozen=True)
class NavItem:
    """One entry of the side list."""

    name: str
    """Also the key of its label and its icon."""
    href: str
    is_current: bool


@dataclass(frozen=True)
class Serving:
    """What the top line says is being served."""

    state: State
    refs: tuple[str, ...]
    """Each version once, as ``model@version``."""
    engines: int


@dataclass(frozen=True)
class Frame:
    """Everything around a page's content."""

    lang: str
    theme: Theme
    next_theme: Theme
    base: str
    """Path the console is mounted at, without a slash at its end."""
    nav: tuple[NavItem, ...]
    """Empty before signing in."""
    can_sign_out: bool
    serving: Serving
    version: str
    docs_url: str
    assets: Mapping[str, str]
    """Source name to the address of the built file."""
    command: str
    """The command line that does the same; empty when there is none."""
    json_href: str
    """This page as JSON; empty when there is none."""


# -- problems --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """An error as the reader sees it: what happened, what to do, what to quote."""

    kind: str
    """Name of the error class, or of its nearest ancestor that the catalogues explain."""
    status: int
    detail: str
    """The error's own sentence; empty for errors that are not ours."""
    request_id: str
    retry_after_s: float | None = None


@dataclass(frozen=True)
class ProblemPage:
    """A page that could not be shown."""

    problem: Problem
    home: str


# -- signing in ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SignInPage:
    """The form that takes an API key."""

    next: str
    """Page to go to afterwards."""
    failure: Literal["", "key", "ticket", "origin"]
    """Why the last attempt failed; empty at the first."""


@dataclass(frozen=True)
class EnteredPage:
    """Shown for an instant after a one-time link was accepted."""

    next: str


# -- playground ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ServiceTab:
    """One service of the playground."""

    name: ServiceName
    href: str
    is_current: bool


@dataclass(frozen=True)
class Example:
    """A ready-made input."""

    title: str
    """Its beginning, short enough for a button."""
    href: str
    """Page with this example filled in and answered, for browsers without script."""
    form: Mapping[str, str]
    """Field name to value."""
    form_json: str = field(metadata=PICTURE)
    is_current: bool


@dataclass(frozen=True)
class TimeSplit:
    """Where an answer's time went, in milliseconds."""

    tokenize_ms: float
    queue_ms: float
    compute_ms: float
    tokens: int
    cached: int
    """Texts whose answer had been computed before."""

    @property
    def total_ms(self) -> float:
        """Sum of the phases."""
        return self.tokenize_ms + self.queue_ms + self.compute_ms


@dataclass(frozen=True)
class LabelScore:
    """One label's probability."""

    label: str
    name: str
    """The label in the reader's language where it is known, else as the model spells it."""
    probability: float


@dataclass(frozen=True)
class ClassifyResult:
    """Which label, how sure, or that the model would rather not say."""

    label: str | None
    """None when the model abstains."""
    scores: tuple[LabelScore, ...]
    """Most probable first."""
    abstain_below: float | None
    """The model answers only from this probability on; None when it always answers."""
    is_calibrated: bool
    """False for zero-shot: its shares are relative to the labels offered."""
    text: str
    """What was classified, for the button that explains the answer."""
    kind: Literal["classify"] = "classify"


@dataclass(frozen=True)
class EmbedResult:
    """One text's vector."""

    dimensions: int
    norm: float
    first: tuple[float, ...]
    """The first components."""
    strip: tuple[str, str] = field(metadata=PICTURE)
    """Two SVG path data, positive and negative components, in a box one unit wide per component."""
    kind: Literal["embed"] = "embed"


@dataclass(frozen=True)
class SimilarityResult:
    """How near two texts are in meaning."""

    cosine: float
    word: Literal["close", "related", "distant"]
    kind: Literal["similarity"] = "similarity"


@dataclass(frozen=True)
class FoundDocument:
    """One search hit."""

    rank: int
    id: str
    title: str
    text: str
    lang: str
    score: float


@dataclass(frozen=True)
class SearchResult:
    """The documents nearest to the query."""

    hits: tuple[FoundDocument, ...]
    kind: Literal["search"] = "search"


@dataclass(frozen=True)
class TextPiece:
    """A stretch of an explained text."""

    text: str
    weight: float | None
    """What removing it costs the decision; None for what lies between words."""
    level: int
    """-4 to 4: how strongly to mark it; 0 is unmarked."""


@dataclass(frozen=True)
class ExplainResult:
    """Which words carried the decision."""

    label: str
    name: str
    """The label in the reader's language where it is known."""
    probability: float
    pieces: tuple[TextPiece, ...]
    """The whole text, in order."""
    strongest: tuple[TextPiece, ...]
    """The marked words, strongest first, for the table."""
    kind: Literal["explain"] = "explain"


Result = ClassifyResult | EmbedResult | SimilarityResult | SearchResult | ExplainResult


@dataclass(frozen=True)
class Answer:
    """A result, the version that gave it, and where the time went."""

    result: Result
    version: str
    time: TimeSplit


@dataclass(frozen=True)
class Snippet:
    """The same request as code."""

    name: Literal["curl", "python", "javascript"]
    code: str


@dataclass(frozen=True)
class AnswerPanel:
    """The right side of the playground, and the fragment htmx swaps in."""

    service: ServiceName
    answer: Answer | None
    """None before the first question, and after a problem."""
    problem: Problem | None
    snippets: tuple[Snippet, ...]


@dataclass(frozen=True)
class PlaygroundPage:
    """One service to try."""

    service: ServiceName
    tabs: tuple[ServiceTab, ...]
    examples: tuple[Example, ...]
    form: Mapping[str, str]
    """What the fields hold."""
    versions: tuple[str, ...]
    """Versions that can answer, the default first."""
    panel: AnswerPanel


# -- models ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelRow:
    """One model in the list."""

    name: str
    href: str
    task: str
    versions: int
    live: tuple[LiveVersion, ...]
    newest: str
    shown: str
    """The version the numbers are of: the one that serves, else the newest."""
    size_bytes: int
    p50_ms: float | None
    bounds_met: int
    bounds_total: int


@dataclass(frozen=True)
class ModelsPage:
    """What there is, and what serves."""

    models: tuple[ModelRow, ...]


@dataclass(frozen=True)
class MetricCell:
    """One metric of one version."""

    value: float
    low: float
    high: float
    n: int
    at_least: float | None
    at_most: float | None
    state: BoundState
    """Whether the pessimistic end of the interval satisfies the bound, where there is one.

    ``reference``: this version is what the others are compared with, so it agrees with itself by definition.
    """


@dataclass(frozen=True)
class MetricRow:
    """One metric across versions."""

    name: str
    is_share: bool
    """Shares are written as percentages."""
    cells: tuple[MetricCell | None, ...]
    """One per version; None where it was not measured."""


@dataclass(frozen=True)
class SpeedCell:
    """What running a version costs on the machine of comparison."""

    p50_ms: float
    p99_ms: float
    texts_per_s: float | None
    """Best measured over batch sizes, at the length nearest to the latency measurement's."""
    peak_memory_bytes: int
    load_ms: float


@dataclass(frozen=True)
class VersionColumn:
    """One version in the comparison."""

    version: str
    ref: str
    href: str
    precision: str
    size_bytes: int
    created_at: str
    live: LiveVersion | None
    bounds_met: int
    bounds_total: int
    speed: SpeedCell | None
    """None when it was not measured on the machine of comparison."""


@dataclass(frozen=True)
class Conditions:
    """Under which speeds were measured; they compare only within one set of conditions."""

    cpu: str
    cores: int
    threads: int
    engine: str
    tokens: int
    measured_at: str


@dataclass(frozen=True)
class PlotTable:
    """The numbers of a plot, for those who cannot or would rather not look at it."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Plot:
    """A picture drawn on the server and its numbers."""

    title: str
    svg: str = field(metadata=PICTURE)
    table: PlotTable


@dataclass(frozen=True)
class Recommendation:
    """The version that should serve by what was measured: the fastest of those that meet every bound."""

    version: str
    href: str
    live: LiveVersion | None
    against: str
    """The first version, which it is compared with; its own name when it is the first."""
    times_faster: float
    """Median latency of the first version over its own."""
    size_share: float
    """Its size over the first version's."""


@dataclass(frozen=True)
class ModelPage:
    """The versions of one model side by side."""

    model: str
    task: str
    recommendation: Recommendation | None
    """None when no measured version meets every bound."""
    live: tuple[str, ...]
    """Versions that serve now."""
    versions: tuple[VersionColumn, ...]
    metrics: tuple[MetricRow, ...]
    conditions: Conditions | None
    """None when no version's speed was measured."""
    pareto: Plot | None
    """Quality against latency; None when fewer than two versions can be compared."""
    plots: tuple[Plot, ...]
    forced: tuple[VersionColumn, ...]
    """Versions served although they miss a bound."""


@dataclass(frozen=True)
class VersionPage:
    """The passport of one version."""

    model: str
    model_href: str
    version: str
    ref: str
    task: str
    precision: str
    created_at: str
    size_bytes: int
    live: LiveVersion | None
    metrics: tuple[MetricRow, ...]
    """Each with a single cell."""
    bounds_met: int
    bounds_total: int
    reference: str
    data: str
    data_sha256: str
    seed: int
    software: Mapping[str, str]
    max_tokens: int
    embedding_dim: int | None
    labels: tuple[str, ...]
    abstain_below: float | None
    source: str
    architecture: str
    recipe: tuple[str, ...]
    notes: tuple[str, ...]
    lineage: tuple[str, ...]
    """From the first source to this version."""
    artefacts: tuple[Artefact, ...]
    speeds: tuple[Speed, ...]
    """One per machine and thread budget, newest first."""
    plots: tuple[Plot, ...]


# -- optimise --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refusal:
    """Why a run was not started, stopped or gone on with."""

    kind: RefusalKind
    """Chooses the sentence."""
    where: str = ""
    """Field to correct; empty when none is to blame."""
    detail: str = ""
    """What whoever looked at the files said, in English; empty when the sentence says it all."""
    values: Mapping[str, str] = field(default_factory=dict)
    """What the sentence names."""


@dataclass(frozen=True)
class StartForm:
    """The form that starts a run."""

    models: tuple[str, ...]
    """Versions to start from, as ``model@version``."""
    values: Mapping[str, str]
    """What the fields hold; files cannot be filled in again."""
    max_upload_bytes: int
    """What the files may have together."""
    busy: str
    """The run that is worked now, which must end first; empty when there is none."""
    refusal: Refusal | None


@dataclass(frozen=True)
class Spread:
    """A figure and the ends of its interval, or of its rounds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Finding:
    """What a study found: the version to take, or the nearest one when none is good enough."""

    version: str
    """Empty when nothing but the reference was made."""
    passes: bool
    size_bytes: int
    reference_size_bytes: int
    faster_alone: Spread | None
    """Times as fast as the reference, one text at a time."""
    faster_batched: Spread | None
    loss_points: float | None
    loss_upper: float | None
    """The one-sided 95 % bound of the loss."""
    accuracy: Spread | None


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands."""

    name: str
    href: str
    state: StateOfRun
    source: str
    """The version it began with; empty before it said so."""
    started_at: str
    updated_at: str
    """When it last said something."""
    step: str
    share: float
    seconds_left: float | None
    is_silent: bool
    """Whether a running one has said nothing for minutes."""
    error: str
    """Why it failed, in English."""


@dataclass(frozen=True)
class RunRow:
    """One run in the list."""

    status: RunStatus
    finding: Finding | None


@dataclass(frozen=True)
class RunsPanel:
    """The list of runs, and the fragment htmx swaps in."""

    runs: tuple[RunRow, ...]
    """The one touched last first."""
    href: str
    is_active: bool
    """Whether one is being worked, so that it is worth asking again."""


@dataclass(frozen=True)
class OptimisePage:
    """The runs, and what starts another."""

    panel: RunsPanel
    barrier: Literal["", "reader", "no_model", "no_torch"]
    """Why nobody can start one here and now; empty when it can be done."""
    form: StartForm | None
    """None behind a barrier."""
    commands: tuple[str, ...]
    """What to type instead, or first."""


@dataclass(frozen=True)
class ClassLoss:
    """What one class loses against the reference."""

    name: str
    points: float
    low: float
    high: float
    n: int
    lost: int
    """Rows that the reference gets right and this version does not."""
    gained: int
    is_broken: bool
    """Whether the loss is proven to be more than is tolerated of a class."""


@dataclass(frozen=True)
class StepTime:
    """One step of a recipe."""

    step: str
    seconds: float | None
    """None when it was not recorded."""


@dataclass(frozen=True)
class StudyVersion:
    """One version of a study."""

    name: str
    verdict: Literal["reference", "passes", "fails"]
    reasons: tuple[str, ...]
    """Why the gate stopped it, in English."""
    size_bytes: int
    accuracy: Spread | None
    loss_points: float | None
    """None for the reference."""
    loss_upper: float | None
    faster_alone: Spread | None
    faster_batched: Spread | None
    p50_ms: float | None
    on_front: bool
    """Whether no other version is better in accuracy, latency, throughput and size at once."""
    classes: int
    """Classes that were compared."""
    losing: int
    """Classes that lose something."""
    worst: tuple[ClassLoss, ...]
    """Broken classes first, then those that lose most."""
    steps: tuple[StepTime, ...]
    recipe: str
    """As YAML; empty for versions that no recipe made."""
    ref: str
    """What it was published as; empty when it was not."""
    href: str
    """Its page when it was published."""
    can_publish: bool


@dataclass(frozen=True)
class FailedRecipe:
    """A recipe that could not be worked."""

    name: str
    reason: str
    """In English."""


@dataclass(frozen=True)
class PublishedVersion:
    """A version of the registry that a run made."""

    ref: str
    href: str
    playground_href: str
    """Where to try it; empty while it does not serve."""


@dataclass(frozen=True)
class RunPanel:
    """A run: how far it is, or what it found; and the fragment htmx swaps in."""

    status: RunStatus
    is_active: bool
    """Whether it is being worked, so that it is worth asking again."""
    can_stop: bool
    can_go_on: bool
    command: str
    """What started it, and goes on with it."""
    allowed_points: float | None
    """What a version may lose; None when it is not known."""
    log: tuple[str, ...]
    """The last lines it wrote; empty unless it failed."""
    finding: Finding | None
    pareto: Plot | None
    """Accuracy against latency; None when fewer than two versions have both."""
    versions: tuple[StudyVersion, ...]
    """The reference first; empty before the comparison is there."""
    worked_seconds: float
    """What all steps took; steps that versions share are counted once."""
    failures: tuple[FailedRecipe, ...]
    published: tuple[PublishedVersion, ...]
    refusal: Refusal | None
    problem: Problem | None


@dataclass(frozen=True)
class RunPage:
    """One run."""

    panel: RunPanel


Page = (
    PlaygroundPage | AnswerPanel | ModelsPage | ModelPage | VersionPage
    | OptimisePage | RunsPanel | RunPage | RunPanel
    | SignInPage | EnteredPage | ProblemPage
)  # fmt: skip


def as_json(value: object) -> object:
    """Return a context as plain JSON values, pictures left out."""
    if is_dataclass(value) and not isinstance(value, type):
        shown = (f.name for f in fields(value) if f.metadata.get("json", True))
        return {name: as_json(getattr(value, name)) for name in shown}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [as_json(item) for item in value]
    return value
