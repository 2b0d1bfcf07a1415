"""`headwater consent gvl`: the Global Vendor Lists that TC strings are judged by."""

import json
from pathlib import Path
from typing import Annotated

import typer

from infra.settings import load_settings
from streams.consent.formats.gvl import GvlFolder, import_gvl

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Import and list Global Vendor Lists (IAB TCF).",
    epilog="Example: headwater consent gvl import vendor-list.json",
    rich_markup_mode=None,
)


@app.command("import", epilog="Example: headwater consent gvl import vendor-list.json")
def import_command(file: Annotated[Path, typer.Argument(help="A vendor list as it is published.")]) -> None:
    """Check a list and store it beside the other versions. Workers see it with the next string that names it."""
    folder = load_settings().gvl_dir
    gvl = import_gvl(file, folder)
    typer.echo(f"imported version {gvl.version}, {len(gvl.vendors)} vendors, into {folder}")


@app.command("list", epilog="Example: headwater consent gvl list --json")
def list_command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Name the versions that have been imported."""
    versions = GvlFolder(load_settings().gvl_dir).versions()
    if as_json:
        typer.echo(json.dumps({"versions": versions}))
    else:
        typer.echo(", ".join(f"v{version}" for version in versions) or "no vendor list has been imported")
