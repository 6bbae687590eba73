"""The protocol's messages and methods, compiled from ``open_inference.proto`` when the server starts.

Compiling takes 5 ms, so no generated code is kept. The descriptors have a pool of their own: in the process's
default one they would clash with those of tritonclient, which bear the same names.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from grpc_tools import protoc

from tremplin.errors import MalformedBody

PROTO = "open_inference.proto"
SERVICE = "inference.GRPCInferenceService"

# Of a class made at run time; its fields are those in the .proto file.
Message = Any


@dataclass(frozen=True, slots=True)
class Method:
    """One method of the service."""

    name: str
    request: Any
    """The class of what is asked."""
    answer: Any
    """The class of what is answered."""
    is_stream: bool

    def read(self, payload: bytes) -> Message:
        """Return a request; raises MalformedBody when it cannot be read."""
        try:
            return self.request.FromString(payload)
        except DecodeError:
            raise MalformedBody(
                f"The message is not a {self.request.DESCRIPTOR.full_name} of the Open Inference Protocol; "
                "texts must be valid UTF-8."
            ) from None


def load_methods() -> Mapping[str, Method]:
    """Return the service's methods by name. Compiles the protocol."""
    pool = DescriptorPool()
    for file in _compile().file:
        pool.Add(file)
    methods = pool.FindServiceByName(SERVICE).methods
    return {
        method.name: Method(
            method.name,
            GetMessageClass(method.input_type),
            GetMessageClass(method.output_type),
            method.client_streaming,
        )
        for method in methods
    }


def _compile() -> FileDescriptorSet:
    with as_file(files("tremplin.gateway.grpc").joinpath(PROTO)) as proto, tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "descriptors"
        status = protoc.main(["protoc", f"-I{proto.parent}", f"--descriptor_set_out={compiled}", str(proto)])
        if status != 0:
            raise AssertionError(f"{PROTO} does not compile: this is a bug")
        return FileDescriptorSet.FromString(compiled.read_bytes())
