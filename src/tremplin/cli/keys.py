"""``tremplin keys``: who may call."""

from __future__ import annotations

from typing import Annotated

import typer

from tremplin.cli.options import Data, Json
from tremplin.store.keys import KeyRing

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")] = "key",
    operator: Annotated[
        bool, typer.Option("--operator", help="It may also load versions and look at batches.")
    ] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Make a key and print it; it is not shown again."""
    from tremplin.cli.show import print_json

    key = _ring(data).create(name, is_operator=operator)
    print_json({"key": key, "name": name, "is_operator": operator}) if json else print(key)


@app.command("list")
def list_(data: Data = None, json: Json = False) -> None:
    """List the keys by their first characters."""
    from tremplin.cli.show import out, print_json

    keys = _ring(data).all()
    rows = [
        {
            "id": key.id,
            "name": key.name,
            "created_at": key.created_at,
            "revoked_at": key.revoked_at,
            "is_operator": key.is_operator,
        }
        for key in keys
    ]
    if json:
        print_json(rows)
        return
    for row in rows:
        state = f"revoked {row['revoked_at']}" if row["revoked_at"] else "live"
        right = "operator" if row["is_operator"] else "caller"
        out.print(f"{row['id']}...  {row['created_at']}  {state:<34} {right:<9} {row['name']}", highlight=False)
    if not rows:
        out.print("No key yet: `tremplin keys create` makes one.")


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's first characters, as `list` shows them.")],
    data: Data = None,
) -> None:
    """Refuse a key from now on; a running server sees it within 0.1 s."""
    gone = _ring(data).revoke(key_id.rstrip("."))
    print(f"Revoked {gone.id}... ({gone.name})")


def _ring(data: Data) -> KeyRing:
    from tremplin.config import read_settings
    from tremplin.wiring import open_keys

    return open_keys(read_settings(data=data))
