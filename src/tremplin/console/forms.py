"""Reading the console's forms, with a limit on what is read."""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.requests import Request

from tremplin.errors import BodyTooLarge, InvalidText, MalformedBody

# The longest text a model reads is a few thousand tokens; this is far above it.
MAX_FORM_BYTES = 256 * 1024
MAX_FIELDS = 16


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form; of a field sent twice, the last counts."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise MalformedBody(f"The form came as {kind[:60] or 'nothing'}; send application/x-www-form-urlencoded.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise BodyTooLarge(f"The form is larger than {MAX_FORM_BYTES // 1024} KiB; send a shorter text.")
    try:
        return dict(
            parse_qsl(
                body.decode("ascii"),
                keep_blank_values=True,
                encoding="utf-8",
                errors="strict",
                max_num_fields=MAX_FIELDS,
            )
        )
    except UnicodeError:
        raise InvalidText("The form is not valid UTF-8 text.") from None
    except ValueError:
        raise MalformedBody(f"The form has more than {MAX_FIELDS} fields.") from None
