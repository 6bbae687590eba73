"""Files that come with a form: received up to a limit, kept as UTF-8 text, refused when they are none."""

from __future__ import annotations

import codecs
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import BinaryIO

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from tremplin.console.contexts import RefusalKind
from tremplin.console.forms import MAX_FIELDS
from tremplin.console.orders import Refused
from tremplin.errors import MalformedBody
from tremplin.optimize.head.rows import likely_encoding

FORM_ROOM_BYTES = 64 * 1024
"""What a form may hold beside its files: fields, and the seams between the parts."""
MAX_FILES = 4
CHUNK_BYTES = 1 << 16
MAX_NAME_CHARACTERS = 60

SIGNATURES: tuple[tuple[bytes, RefusalKind], ...] = (
    (b"PK\x03\x04", "spreadsheet"),  # .xlsx, .ods; also any other zip, which is as little a text
    (b"\xd0\xcf\x11\xe0", "spreadsheet"),  # .xls
    (b"%PDF-", "binary"),
    (b"\x1f\x8b", "binary"),  # gzip
    (b"\x89PNG", "binary"),
    (b"\x80\x04", "binary"),  # pickle
)
_NOT_IN_A_NAME = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class SentFile:
    """A file as it came."""

    field: str
    name: str
    """As the browser says it: shown, never used as a path."""
    stream: BinaryIO
    size_bytes: int


@dataclass(frozen=True)
class SentForm:
    """A form with files. Fields sent twice count as they came last; files that nobody chose are left out."""

    fields: Mapping[str, str]
    files: Mapping[str, SentFile]


@asynccontextmanager
async def received(request: Request, *, max_bytes: int) -> AsyncIterator[SentForm]:
    """Lend a form whose files lie in temporary files on disk while they are looked at.

    Raises Refused when the files are larger than ``max_bytes`` together, MalformedBody when it is no such form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise MalformedBody(f"The form came as {kind[:60] or 'nothing'}; send multipart/form-data.")
    parser = MultiPartParser(
        request.headers,
        _bounded(request, max_bytes + FORM_ROOM_BYTES),
        max_files=MAX_FILES,
        max_fields=MAX_FIELDS,
        max_part_size=FORM_ROOM_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise MalformedBody(f"The form cannot be read: {error.message}") from None
    try:
        files = {
            field: SentFile(field, value.filename, value.file, value.size or 0)
            for field, value in form.multi_items()
            if isinstance(value, UploadFile) and value.filename
        }
        if sum(file.size_bytes for file in files.values()) > max_bytes:
            raise Refused("too_large", "labelled")
        yield SentForm({k: v for k, v in form.multi_items() if isinstance(v, str)}, files)
    finally:
        await form.close()


async def _bounded(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    read = 0
    async for chunk in request.stream():
        read += len(chunk)
        if read <= limit:  # the rest is read and dropped: a browser that is cut off shows no answer
            yield chunk
    if read > limit:
        raise Refused("too_large", "labelled")


def keep_text(sent: SentFile, folder: Path, *, other_suffix: str) -> Path:
    """Write what was sent as UTF-8 under its own name and return the path; raises Refused when it is not text.

    Its ending tells how it is read: ``.jsonl`` when it begins as JSON, ``other_suffix`` otherwise.
    """
    begin = sent.stream.read(CHUNK_BYTES)
    sent.stream.seek(0)
    for signature, kind in SIGNATURES:
        if begin.startswith(signature):
            raise Refused(kind, sent.field, file=sent.name)
    if not begin:
        raise Refused("empty_file", sent.field, file=sent.name)
    folder.mkdir(parents=True)
    aside = folder / "sent"
    is_json = None
    with aside.open("w", encoding="utf-8", newline="") as kept:
        for text in _decoded(sent, begin):
            if is_json is None and text.strip():
                is_json = text.lstrip().startswith("{")
            kept.write(text)
    if is_json is None:
        raise Refused("empty_file", sent.field, file=sent.name)
    return aside.rename(folder / (_stem(sent) + (".jsonl" if is_json else other_suffix)))


def _decoded(sent: SentFile, begin: bytes) -> Iterator[str]:
    """Yield the text of a file in pieces, without its byte order mark."""
    is_wide = begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    decoder = codecs.getincrementaldecoder("utf-16" if is_wide else "utf-8-sig")("strict")
    while chunk := sent.stream.read(CHUNK_BYTES):
        yield _checked(sent, decoder, chunk, is_last=False)
    yield _checked(sent, decoder, b"", is_last=True)


def _checked(sent: SentFile, decoder: codecs.IncrementalDecoder, chunk: bytes, *, is_last: bool) -> str:
    try:
        text = decoder.decode(chunk, is_last)
    except UnicodeDecodeError:
        if b"\0" in chunk:
            raise Refused("nul", sent.field, file=sent.name) from None
        raise Refused("encoding", sent.field, file=sent.name, encoding=likely_encoding(chunk)) from None
    if "\0" in text:
        raise Refused("nul", sent.field, file=sent.name)
    return text


def _stem(sent: SentFile) -> str:
    """Return a harmless file name that still tells where the texts come from: passports name it."""
    stem = PurePath(sent.name.replace("\\", "/")).stem
    return _NOT_IN_A_NAME.sub("-", stem).strip(".-")[:MAX_NAME_CHARACTERS] or sent.field
