"""One call on the wire: its metadata, its key, its deadline, its end. The gRPC side of ``gateway/protocol.py``.

The edge counts, checks and refuses as it does for HTTP. Every method is registered as one that reads a stream,
which looks the same on the wire: so a key is checked before the message is read, and not after.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import grpc
from grpc import aio

from tremplin.errors import BodyTooLarge, NotReady
from tremplin.gateway.bodies import server_timing
from tremplin.gateway.calls import LONGEST_S, call_of
from tremplin.gateway.edge import Edge, Exchange, Headers, HotRoute
from tremplin.gateway.endpoint import Endpoint
from tremplin.gateway.grpc.messages import Method
from tremplin.gateway.grpc.service import INFER, Rpc, RpcAnswer
from tremplin.gateway.grpc.status import REQUEST_ID, Metadata, status_of
from tremplin.gateway.problems import Dialect
from tremplin.serve.call import Call

# Requests of one stream that are read and not yet answered; the engine batches them.
STREAM_WINDOW = 64

# gRPC's own, which has no types.
Context = Any


class Calls:
    """Runs the calls of one server."""

    def __init__(self, edge: Edge, methods: Mapping[str, Method], rpcs: Mapping[str, Rpc]) -> None:
        self._edge = edge
        self._methods = methods
        self._rpcs = rpcs
        self._routes = {
            name: HotRoute(Endpoint("POST", f"grpc/{name}", Dialect.V2, summary=name), {}) for name in methods
        }
        self._readers: set[asyncio.Task[None]] = set()
        self._is_ending = False

    def handlers(self) -> dict[str, Any]:
        """Return what gRPC calls for each method."""
        return {
            name: grpc.stream_stream_rpc_method_handler(partial(self._stream, method))
            if method.is_stream
            else grpc.stream_unary_rpc_method_handler(partial(self._unary, method))
            for name, method in self._methods.items()
        }

    def end_streams(self) -> None:
        """Read no more from the streams; they end when what was read is answered."""
        self._is_ending = True
        for reader in self._readers:
            reader.cancel()

    # -- one request, one answer ------------------------------------------------------------------------

    async def _unary(self, method: Method, _: object, context: Context) -> bytes:
        headers = _headers(context)
        exchange = self._begin(method.name, headers)
        try:
            key = self._check(method, exchange, headers)
            payload = await context.read()
            if payload is aio.EOF:
                raise self._unread()
            request = method.read(payload)
            answered = await self._rpcs[method.name].answer(request, _call(context, headers, key))
            answer: bytes = method.answer(**answered.fields).SerializeToString()
            context.set_trailing_metadata(_trailing(exchange, answered))
            exchange.status = 200
            return answer
        except Exception as error:
            await self._end_badly(exchange, error, context)
            raise
        except asyncio.CancelledError:
            exchange.status = _status_of_cancelled(context)
            raise
        finally:
            self._edge.end(exchange)

    # -- a stream: many requests, as many answers, in their order -------------------------------------------

    async def _stream(self, method: Method, _: object, context: Context) -> None:
        headers = _headers(context)
        exchange = self._begin(method.name, headers)
        headers[b"x-request-id"] = exchange.request_id.encode()  # one id for all that is in it
        try:
            self._check(method, exchange, headers)
            await self._answer_all(method, headers, context)
            if self._is_ending:
                raise NotReady("The server is stopping; open the stream again, elsewhere or later.")
            context.set_trailing_metadata(((REQUEST_ID, exchange.request_id),))
            exchange.status = 200
        except Exception as error:
            await self._end_badly(exchange, error, context)
            raise
        except asyncio.CancelledError:
            exchange.status = _status_of_cancelled(context)
            raise
        finally:
            self._edge.end(exchange)

    async def _answer_all(self, method: Method, headers: Headers, context: Context) -> None:
        computing: set[asyncio.Task[bytes]] = set()
        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        slots = asyncio.Semaphore(STREAM_WINDOW)

        async def read() -> None:
            try:
                while await slots.acquire() and (payload := await context.read()) is not aio.EOF:
                    task = asyncio.create_task(self._answer_one(method, payload, headers, context))
                    computing.add(task)
                    answers.put_nowait(task)
            finally:
                answers.put_nowait(None)

        reader = asyncio.create_task(read())
        self._readers.add(reader)
        try:
            while (task := await answers.get()) is not None:
                await context.write(await task)
                computing.discard(task)
                slots.release()
        finally:
            self._readers.discard(reader)
            reader.cancel()
            for unwanted in computing:  # the caller is gone
                unwanted.cancel()
            with contextlib.suppress(asyncio.CancelledError, aio.BaseError):
                await reader

    async def _answer_one(self, method: Method, payload: bytes, headers: Headers, context: Context) -> bytes:
        """Answer one request of a stream; it is counted as if it had come alone, and its failure ends nothing."""
        exchange = self._begin(INFER, headers)
        request = method.request()
        try:
            key = self._check(method, exchange, headers)
            request = method.read(payload)
            answered = await self._rpcs[method.name].answer(request, _call(context, headers, key))
            fields = answered.fields
            exchange.status = 200
        except Exception as error:
            problem = self._edge.refuse(exchange, self._routes[INFER], error)
            fields = {"error_message": status_of(problem).message, "infer_response": {"id": request.id}}
        finally:
            self._edge.end(exchange)
        answer: bytes = method.answer(**fields).SerializeToString()
        return answer

    # -- both -------------------------------------------------------------------------------------------

    def _begin(self, name: str, headers: Headers) -> Exchange:
        return self._edge.begin("POST", "", headers, self._routes[name])

    def _check(self, method: Method, exchange: Exchange, headers: Headers) -> str:
        """Return whose call it is: the id of the key, empty when none is asked for."""
        rules_of = self._rpcs[method.name].rules_of
        key = None if rules_of is None else self._edge.check(exchange, rules_of, headers)
        return "" if key is None else key.id

    async def _end_badly(self, exchange: Exchange, error: Exception, context: Context) -> None:
        """Tell the caller what is wrong; raises gRPC's AbortError. Returns when he is gone."""
        if isinstance(error, aio.BaseError):
            return
        status = status_of(self._edge.refuse(exchange, self._routes[_name(exchange)], error))
        await context.abort(status.code, status.message, status.trailing)

    def _unread(self) -> BodyTooLarge:
        # gRPC has then told the caller already, as RESOURCE_EXHAUSTED.
        limit = self._edge.max_body_bytes
        return BodyTooLarge(f"No message came, or it is larger than {limit:,} bytes. Send it in parts.")


def _headers(context: Context) -> dict[bytes, bytes]:
    return {
        key.encode(): value if isinstance(value, bytes) else value.encode()
        for key, value in context.invocation_metadata() or ()
    }


def _call(context: Context, headers: Headers, tenant: str) -> Call:
    """Return the circumstances of a request: gRPC's deadline, and what its metadata says as headers do."""
    call = call_of(headers, tenant)
    left_s = context.time_remaining()
    if left_s is None or left_s >= LONGEST_S:
        return call
    deadline = time.perf_counter() + left_s
    return replace(call, deadline=deadline if call.deadline is None else min(deadline, call.deadline))


def _status_of_cancelled(context: Context) -> int:
    """gRPC cancels a call whose deadline has passed as it does one whose caller has left."""
    return 504 if context.time_remaining() == 0 else 499


def _trailing(exchange: Exchange, answered: RpcAnswer) -> Metadata:
    if answered.timings is None:
        return ((REQUEST_ID, exchange.request_id),)
    return ((REQUEST_ID, exchange.request_id), ("server-timing", server_timing(answered.timings).decode()))


def _name(exchange: Exchange) -> str:
    return exchange.route.removeprefix("grpc/")
