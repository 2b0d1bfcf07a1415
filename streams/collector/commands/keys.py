"""`headwater keys`: make, list and revoke write keys."""

from typing import Annotated

import orjson
import typer

from infra.settings import load_settings
from streams.collector.write_keys import KeyKind

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Make, list and revoke write keys.",
    epilog="Example: headwater keys create web --site shop.example --kind browser",
)

AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]


@app.command(epilog="Example: headwater keys create shop-history --site shop.example --kind import")
def create(
    source: Annotated[str, typer.Argument(help="Name of the source, e.g. web-de.")],
    site: Annotated[str, typer.Option(help="Site of events that name no page.")],
    events_per_s: Annotated[float, typer.Option(min=1, help="More than this is answered 429.")] = 5_000,
    kind: Annotated[
        KeyKind,
        typer.Option(
            help="Who sends. browser: visitors' pages and apps; the trusted header tells the region. server: backends and tag "
            "containers; events tell it. import: old events; as server, but their times are kept as they are, and they are "
            "marked `imported`."
        ),
    ] = KeyKind.SERVER,
) -> None:
    """Make a write key and print it once: only its hash is kept. Choose the kind by who sends."""
    from streams.collector.write_keys import create_key

    typer.echo(create_key(load_settings().write_keys_file, source, site=site, events_per_s=events_per_s, kind=kind))


@app.command("list", epilog="Example: headwater keys list --json")
def list_keys(as_json: AsJson = False) -> None:
    """List sources and the first characters of their keys' hashes."""
    from streams.collector.write_keys import read_keys

    for key in read_keys(load_settings().write_keys_file):
        row = {**key.model_dump(), "sha256": key.sha256[:8]}
        if as_json:
            typer.echo(orjson.dumps(row).decode())
        else:
            state = "revoked" if key.revoked else "in force"
            typer.echo(
                f"{key.source:<24} {state:<9} {key.kind:<8} {key.site:<30} {key.events_per_s:>8,.0f}/s  {key.sha256[:8]}"
            )


@app.command(epilog="Example: headwater keys revoke web-de")
def revoke(source: Annotated[str, typer.Argument(help="Name of the source.")]) -> None:
    """Revoke all keys of a source; running collectors follow within a second."""
    from streams.collector.write_keys import revoke_keys

    n = revoke_keys(load_settings().write_keys_file, source)
    typer.echo(f"{n} {'key' if n == 1 else 'keys'} of {source} revoked")
    if not n:
        raise typer.Exit(1)
