"""Every error Tremplin raises on purpose.

    TremplinError
    ├── BadInput                what the caller sent cannot be used
    │   ├── EmptyText           nothing to work on
    │   ├── InvalidText         NUL, lone surrogate, invalid UTF-8
    │   ├── TextTooLong         more tokens than the model reads
    │   ├── TooManyInputs       more rows than one request may carry
    │   ├── BodyTooLarge        more bytes than one request may carry
    │   ├── MalformedBody       not JSON, or not the shape asked for
    │   └── UnknownName         no such model, version, service, label or document
    │       ├── UnknownModel
    │       └── UnknownService
    ├── NotPermitted            no key, a wrong key, a key without the right
    │   ├── MissingKey
    │   └── InvalidKey
    ├── Unavailable             right question, wrong moment
    │   ├── NotReady            starting or draining
    │   ├── Overloaded          the queue is full; says when to come back
    │   └── DeadlinePassed      the caller's own deadline came before the answer
    ├── ImportRefused           a source that cannot become a version
    │   ├── UnsafeWeights       pickle
    │   ├── UnsupportedModel    no builder for this architecture, or a missing extra
    │   ├── IncompleteSource    a file or a tensor is missing, damaged or contradictory
    │   ├── TokenizerMismatch   the tokenizer does not fit the model
    │   └── ParityFailed        the graph does not answer as its source does
    ├── OptimizeFailed          a pass that could not do its work
    │   ├── PassFailed          a graph or network a pass cannot work on
    │   └── TrainingFailed      a run that diverged, or memory ran out; its checkpoint is kept
    ├── TrainingRefused         labelled text that cannot train
    ├── RegistryError           a version that cannot be read, written or served
    │   ├── UnknownVersion
    │   ├── DamagedArtefact     bytes differ from their digest
    │   ├── NotServable         misses its quality bound, or no service answers with it
    │   └── PublishFailed       nothing was published
    ├── EngineFailed            the engine could not load or run a graph
    │   ├── EngineOutOfMemory   the batch was too large for the memory there is
    │   ├── EngineHung          the batch took many times what it should
    │   ├── EngineCrashed       the engine's process ended in the middle of a batch
    │   └── EngineNotRunning    there was no engine to run a batch: it is being started, or cannot be
    ├── MissingExtra            an optional package is needed
    ├── StartFailed             a command cannot start (port in use, data folder locked)
    └── InvalidSettings         a setting has a value that cannot be used

A message says the value, what was expected and what to do next. It never holds a secret or a user's text.
Errors know nothing of HTTP: ``gateway/problems.py`` alone maps them to a status.
"""

from __future__ import annotations


class TremplinError(Exception):
    """Base of the tree. ``str(error)`` is a complete sentence that a person can act on."""


class BadInput(TremplinError):
    """What the caller sent cannot be used; nothing was done."""

    def __init__(self, message: str, *, pointer: str | None = None) -> None:
        super().__init__(message)
        self.pointer = pointer
        """JSON pointer (RFC 6901) to the offending member, when one is to blame."""


class EmptyText(BadInput):
    """Nothing to work on."""


class InvalidText(BadInput):
    """Text that is not valid Unicode text: NUL, lone surrogate, invalid UTF-8."""


class TextTooLong(BadInput):
    """More tokens than the model reads, and truncation was not allowed."""


class TooManyInputs(BadInput):
    """More rows than one request may carry."""


class BodyTooLarge(BadInput):
    """More bytes than one request may carry."""


class MalformedBody(BadInput):
    """Not JSON, or not the shape asked for."""


class UnknownName(BadInput):
    """No such thing under this name."""


class UnknownModel(UnknownName):
    """No model of this name is served."""


class UnknownService(UnknownName):
    """No service of this name."""


class NotPermitted(TremplinError):
    """The caller may not do this."""


class MissingKey(NotPermitted):
    """No API key came with the request."""


class InvalidKey(NotPermitted):
    """The API key is unknown or revoked."""


class Unavailable(TremplinError):
    """The right question at the wrong moment: asking again later can succeed."""


class NotReady(Unavailable):
    """Starting or draining."""


class Overloaded(Unavailable):
    """The queue is full."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlinePassed(Unavailable):
    """The deadline that came with the request passed before its answer was there."""


class ImportRefused(TremplinError):
    """A source that cannot become a version."""


class UnsafeWeights(ImportRefused):
    """Weights in a format that can run code when read (pickle)."""


class UnsupportedModel(ImportRefused):
    """No builder for this architecture."""


class IncompleteSource(ImportRefused):
    """A file or a tensor is missing, damaged or contradictory."""


class TokenizerMismatch(ImportRefused):
    """The tokenizer does not fit the model."""


class ParityFailed(ImportRefused):
    """The graph does not answer as its source does."""


class OptimizeFailed(TremplinError):
    """A version could not be made from another."""


class PassFailed(OptimizeFailed):
    """A pass met a graph it cannot work on, or broke its after-condition."""


class TrainingFailed(OptimizeFailed):
    """A training run that could not go on: it diverged, or memory ran out. Its checkpoint is kept."""


class TrainingRefused(TremplinError):
    """Labelled text that cannot train a head."""


class RegistryError(TremplinError):
    """A version that cannot be read, written or served."""


class UnknownVersion(RegistryError):
    """No such version in the registry."""


class DamagedArtefact(RegistryError):
    """The bytes on disk differ from the digest in the manifest."""


class NotServable(RegistryError):
    """The version misses its quality bound, or no service can answer with it."""


class PublishFailed(RegistryError):
    """The version could not be written; nothing was published."""


class EngineFailed(TremplinError):
    """The engine could not load or run a graph."""


class EngineOutOfMemory(EngineFailed):
    """A batch needed more memory than there is; a smaller one may fit."""


class EngineHung(EngineFailed):
    """A batch took many times longer than predicted and was given up."""


class EngineCrashed(EngineFailed):
    """The process that runs the engine ended in the middle of a batch."""


class EngineNotRunning(EngineFailed):
    """There was no engine to run a batch, which is nobody's fault who is in it."""


class MissingExtra(TremplinError):
    """An optional package is needed; the message says how to install it."""


class StartFailed(TremplinError):
    """A command cannot start."""


class InvalidSettings(TremplinError):
    """A setting has a value that cannot be used."""
