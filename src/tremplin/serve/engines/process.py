"""An engine in a process of its own: when native code crashes or hangs, the server lives on.

A child reads batches from a socket, runs them and writes the outputs back. One child runs one batch at a time, so
there are as many as streams. What crosses the socket is described by ``Wire``; a batch of 32 short texts is 10 kB
there and 50 kB back.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from tremplin.errors import EngineCrashed, EngineFailed, EngineHung, EngineNotRunning, EngineOutOfMemory
from tremplin.serve.engine import Outputs, TokenBatch
from tremplin.serve.engines.catalogue import EngineSpec

START_TIMEOUT_S = 60.0
LARGEST_MESSAGE = 1 << 30

ERRORS: dict[int, type[EngineFailed]] = {1: EngineFailed, 2: EngineOutOfMemory}


class Wire:
    """Messages over a stream socket: a length, then the content. Numbers are little-endian."""

    LENGTH = struct.Struct("<I")
    BATCH = struct.Struct("<II?")  # rows, width, whether token types follow
    ARRAY = struct.Struct("<B")  # dimensions, each a uint32, then float32 numbers

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, *parts: bytes) -> None:
        """Send one message."""
        size = sum(map(len, parts))
        self._connection.sendall(b"".join((self.LENGTH.pack(size), *parts)))

    def receive(self) -> memoryview:
        """Return one message; raises EOFError when the other side is gone."""
        (size,) = self.LENGTH.unpack(self._exactly(self.LENGTH.size))
        if size > LARGEST_MESSAGE:
            raise EOFError
        return self._exactly(size)

    def _exactly(self, size: int) -> memoryview:
        buffer = memoryview(bytearray(size))
        done = 0
        while done < size:
            read = self._connection.recv_into(buffer[done:])
            if not read:
                raise EOFError
            done += read
        return buffer

    def send_batch(self, batch: TokenBatch) -> None:
        """Send token ids as int64, the mask as bytes, and the types, when there are some, as bytes."""
        types = batch.token_type_ids
        self.send(
            self.BATCH.pack(batch.rows, batch.width, types is not None),
            batch.input_ids.tobytes(),
            batch.attention_mask.astype(np.uint8).tobytes(),
            b"" if types is None else types.astype(np.uint8).tobytes(),
        )

    def receive_batch(self) -> TokenBatch:
        """Return the batch that ``send_batch`` sent."""
        message = self.receive()
        rows, width, has_types = self.BATCH.unpack_from(message)
        size, at = rows * width, self.BATCH.size
        ids = np.frombuffer(message, np.int64, size, at).reshape(rows, width)
        at += 8 * size
        mask = np.frombuffer(message, np.uint8, size, at).reshape(rows, width).astype(np.int64)
        at += size
        types = (
            np.frombuffer(message, np.uint8, size, at).reshape(rows, width).astype(np.int64) if has_types else None
        )
        return TokenBatch(ids, mask, types)

    def send_outputs(self, arrays: Sequence[NDArray[np.float32]]) -> None:
        """Send a 0, then each array."""
        parts = [b"\0"]
        for array in arrays:
            parts.append(self.ARRAY.pack(array.ndim) + struct.pack(f"<{array.ndim}I", *array.shape))
            parts.append(np.ascontiguousarray(array, np.float32).tobytes())
        self.send(*parts)

    def send_error(self, error: EngineFailed) -> None:
        """Send the number of an error's class, then its message."""
        code = next((code for code, of_class in ERRORS.items() if type(error) is of_class), 1)
        self.send(bytes([code]), str(error).encode())

    def receive_outputs(self, names: Sequence[str]) -> Outputs:
        """Return the arrays by name; raises the error that was sent in their place."""
        message = self.receive()
        if code := message[0]:
            raise ERRORS[code](bytes(message[1:]).decode())
        outputs, at = {}, 1
        for name in names:
            (dimensions,) = self.ARRAY.unpack_from(message, at)
            shape = struct.unpack_from(f"<{dimensions}I", message, at + self.ARRAY.size)
            at += self.ARRAY.size + 4 * dimensions
            size = int(np.prod(shape))
            outputs[name] = np.frombuffer(message, np.float32, size, at).reshape(shape)
            at += 4 * size
        return outputs


class Child:
    """One process with an engine in it."""

    def __init__(self, spec: EngineSpec) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 (this program)
                [sys.executable, "-m", "tremplin.serve.engines.process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self._connection = ours
        self._wire = Wire(ours)
        try:
            ours.settimeout(START_TIMEOUT_S)
            self._wire.send(json.dumps(asdict(spec)).encode())
            ready = self._wire.receive()
            if code := ready[0]:
                raise ERRORS[code](bytes(ready[1:]).decode())
        except (OSError, EOFError):
            self.kill()
            raise EngineNotRunning(f"The engine's process ended while it started ({self._status()}).") from None
        except BaseException:
            self.kill()
            raise
        about = json.loads(bytes(ready[1:]))
        self.name: str = about["name"]
        self.outputs: tuple[str, ...] = tuple(about["outputs"])

    def run(self, batch: TokenBatch, limit_s: float) -> Outputs:
        """Run one batch; raises EngineCrashed when the process ends meanwhile, EngineHung when it is late.

        In both cases the process is no more.
        """
        self._connection.settimeout(limit_s)
        try:
            self._wire.send_batch(batch)
            return self._wire.receive_outputs(self.outputs)
        except TimeoutError:
            self.kill()
            raise EngineHung(
                f"The engine did not answer a batch of {batch.rows} rows within {limit_s:.1f} s and was ended. "
                "It is started anew."
            ) from None
        except (OSError, EOFError):
            self.kill()
            raise EngineCrashed(
                f"The engine's process ended in the middle of a batch ({self._status()}). It is started anew."
            ) from None

    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End the process, whatever it does; a run that waits for it fails."""
        self._process.kill()
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._process.wait()
        self._connection.close()

    def _status(self) -> str:
        status = self._process.returncode
        if status is not None and status < 0:
            return signal.Signals(-status).name
        return f"exit status {status}"


class ProcessEngine:
    """The engine of a spec in processes of its own, one for each stream."""

    def __init__(self, spec: EngineSpec, time_limit: Callable[[TokenBatch], float]) -> None:
        self._spec = spec.with_streams(1)
        self._time_limit = time_limit
        self._streams = spec.streams
        self._free: SimpleQueue[Child | None] = SimpleQueue()
        self._children: set[Child] = set()
        self._is_open = False
        self.name = spec.name.value
        self.outputs: tuple[str, ...] = ()

    def load(self) -> None:
        """Start the processes; raises EngineFailed when the graph cannot be opened."""
        self._free = SimpleQueue()
        self._is_open = True
        for _ in range(self._streams):
            self._free.put(self._start())

    def warm_up(self) -> None:
        """Replace processes that have ended; each has warmed up before it said that it was ready."""
        self._check_open()
        for _ in range(self._free.qsize()):
            child = self._free.get()
            self._free.put(child if child is not None and child.is_alive() else self._start())

    def run(self, batch: TokenBatch) -> Outputs:
        """Return every output of the graph for a batch, from the next process that is free."""
        self._check_open()
        free = self._free
        child = free.get()
        try:
            if child is None or not child.is_alive():
                child = self._start()
            return child.run(batch, self._time_limit(batch))
        finally:
            alive = child is not None and child.is_alive()
            if child is not None and not alive:
                self._children.discard(child)
            free.put(child if alive else None)

    def health(self) -> bool:
        """Return whether there is a process that can take a batch."""
        return self._is_open and any(child.is_alive() for child in list(self._children))

    def close(self) -> None:
        """End the processes at once; a batch that is running fails."""
        self._is_open = False
        for child in list(self._children):
            child.kill()
        self._children.clear()

    def _check_open(self) -> None:
        if not self._is_open:
            raise EngineNotRunning("The engine was asked to run before it was loaded, or after it was closed.")

    def _start(self) -> Child:
        child = Child(self._spec)
        self.name, self.outputs = child.name, child.outputs
        self._children.add(child)
        if not self._is_open:  # closed meanwhile
            child.kill()
            raise EngineNotRunning("The engine was closed while it was started.")
        return child


def _serve(connection: socket.socket) -> None:
    """Be the child: make the engine that is described, then run batches until the parent is gone."""
    # The terminal's Ctrl-C reaches the whole group, but it is the server that decides when the engine ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wire = Wire(connection)
    spec = json.loads(bytes(wire.receive()))
    try:
        engine = EngineSpec.of(spec).make()
        engine.load()
        engine.warm_up()
    except EngineFailed as error:
        wire.send_error(error)
        return
    wire.send(b"\0", json.dumps({"name": engine.name, "outputs": list(engine.outputs)}).encode())
    while True:
        try:
            batch = wire.receive_batch()
        except (EOFError, OSError):
            return
        try:
            outputs = engine.run(batch)
            wire.send_outputs([outputs[name] for name in engine.outputs])
        except EngineFailed as error:
            wire.send_error(error)
        except MemoryError:
            wire.send_error(EngineOutOfMemory("A batch needed more memory than there is."))


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as parent:
        _serve(parent)
    os._exit(0)  # threads of a runtime that still spin must not hold the process
