"""Every setting, read once. Nothing else in the package reads the environment.

Settings come from the command line first, then from ``TREMPLIN_*`` variables, then from the defaults here.
A part of the program receives its section, never the whole.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tremplin.errors import InvalidSettings

MIB = 1 << 20


def default_data_folder() -> Path:
    """Return where data lives when nothing is said: the XDG data folder of the user."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "tremplin"


def has_display() -> bool:
    """Return whether a browser could show a window here; always so on macOS and Windows."""
    named = any(name in os.environ for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return named or sys.platform in ("darwin", "win32")


class Settings(BaseSettings):
    """All settings of a server."""

    model_config = SettingsConfigDict(env_prefix="TREMPLIN_", frozen=True, extra="ignore")

    data: Path = Field(default_factory=default_data_folder, description="The one folder everything is kept in.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Annotated[int, Field(ge=0, le=65535, description="Port to listen on; 0 takes a free one.")] = 8000
    grpc_port: Annotated[
        int | None,
        Field(ge=0, le=65535, description="Port for gRPC beside it, on the same address; none by default."),
    ] = None
    auth: bool = Field(True, description="Ask for an API key. Only a loopback address may go without.")
    threads: Annotated[
        int, Field(ge=0, le=256, description="Threads of each batch; 0 shares out the usable cores.")
    ] = 0
    workers: Annotated[
        int, Field(ge=1, le=256, description="Processes that share the port, each with its own engines.")
    ] = 1
    streams: Annotated[int, Field(ge=1, le=256, description="Batches each engine computes at the same time.")] = 1
    max_body_bytes: Annotated[
        int, Field(ge=1024, le=256 * MIB, description="Largest request body, after which 413 is answered.")
    ] = 8 * MIB
    max_rows_per_request: Annotated[int, Field(ge=1, description="Most inputs in one request.")] = 2048
    max_tokens_per_request: Annotated[int, Field(ge=16, description="Most tokens in one request.")] = 131_072
    max_queue_tokens: Annotated[int, Field(ge=16, description="Tokens that may wait for one engine.")] = 65_536
    max_queue_s: Annotated[float, Field(gt=0, description="Seconds of work that may wait for one engine.")] = 20.0
    max_batch_tokens: Annotated[
        int, Field(ge=0, description="Padded tokens in one batch; 0 takes what was measured best.")
    ] = 0
    max_batch_rows: Annotated[int, Field(ge=1, description="Rows in one batch.")] = 64
    engine: str = Field(
        "auto",
        pattern="^(auto|onnxruntime|openvino|ctranslate2|cuda|tensorrt)$",
        description="What runs batches: auto measures the installed engines and keeps the best for each shape.",
    )
    engine_process: bool = Field(
        False, description="Run each engine in a process of its own, which may crash without ending the server."
    )
    batch_timeout_s: Annotated[
        float,
        Field(gt=0, description="Seconds after which a batch may be given up; at least 20 times its prediction."),
    ] = 10.0
    cache_bytes: Annotated[
        int, Field(ge=0, le=1 << 40, description="Memory for answers computed before; 0 keeps none.")
    ] = 32 * MIB
    cache_url: str = Field(
        "", pattern="^$|^rediss?://", description="Redis that keeps answers instead, redis://host:port/0."
    )
    drain_delay_s: Annotated[
        float,
        Field(ge=0, le=600, description="Seconds between /readyz answering 503 and the socket closing."),
    ] = 1.0
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="Least level logged.")
    documents: Path | None = Field(
        None,
        description="JSONL file of documents to search: id, title, text. The bundled ones when not given.",
    )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in ("127.0.0.1", "::1", "localhost")


def read_settings(**given: Any) -> Settings:
    """Return the settings; ``given`` are the command line's, None meaning "not given".

    Raises InvalidSettings naming the setting, what was expected and where it can be set.
    """
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "?"
        raise InvalidSettings(
            f"The setting {name!r} cannot be used: {first['msg'].lower()}. "
            f"Set it with --{name.replace('_', '-')} or TREMPLIN_{name.upper()}."
        ) from None
    if not settings.auth and not settings.is_loopback:
        raise InvalidSettings(
            f"A server on {settings.host} must ask for API keys: running without them is for loopback only. "
            "Drop --no-auth, or listen on 127.0.0.1."
        )
    return settings
