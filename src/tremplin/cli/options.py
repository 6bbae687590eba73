"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path | None, typer.Option("--data", help="The one folder everything is kept in.", show_default="XDG data")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Threads = Annotated[
    int | None, typer.Option(min=0, help="Threads that compute one batch; 0 shares out the usable cores.")
]
Streams = Annotated[
    int | None, typer.Option(min=1, help="Batches that each engine computes at the same time.", show_default="1")
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Processes that share the port, each with engines.", show_default="1"),
]
Engine = Annotated[
    str | None,
    typer.Option(
        help="auto, onnxruntime, openvino, ctranslate2, cuda or tensorrt: what runs batches.", show_default="auto"
    ),
]
EngineProcess = Annotated[
    bool, typer.Option("--engine-process", help="Run engines in processes of their own, which may crash alone.")
]
Host = Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.", show_default="8000")]
GrpcPort = Annotated[
    int | None,
    typer.Option(
        "--grpc-port", min=0, help="Port for gRPC on the same address; 0 takes a free one.", show_default="no gRPC"
    ),
]
Documents = Annotated[
    Path | None, typer.Option(help="JSONL of documents to search; the bundled ones when not given.")
]
NoAuth = Annotated[bool, typer.Option("--no-auth", help="Ask nobody for a key; only on a loopback address.")]
Force = Annotated[
    list[str] | None,
    typer.Option(help="Serve this model@version although it misses its quality bound. Repeatable."),
]
