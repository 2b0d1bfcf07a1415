"""`headwater warehouse status`."""

import json

import typer

from consumers.warehouse.commands.connection import AsJson, open_warehouse


def status_command(as_json: AsJson = False) -> None:
    """Show each table: rows, size, how far its loader is and what it waits for, and the last verification."""
    from consumers.warehouse.verification.status import table_states
    from infra.settings import load_settings

    settings = load_settings()
    with open_warehouse() as store:
        states = table_states(settings, store)
    if as_json:
        typer.echo(json.dumps({"tables": [state.as_json() for state in states]}))
        return
    from rich.console import Console
    from rich.table import Table as TextTable

    table = TextTable("table", box=None, pad_edge=False)
    for column in ("rows", "size", "parts", "newest row", "lag", "verified", "result"):
        table.add_column(column, justify="right" if column in {"rows", "size", "parts", "lag"} else "left", overflow="fold")
    for state in states:
        table.add_row(
            state.table, f"{state.rows:,}", f"{state.bytes_on_disk / 1e6:,.1f} MB", str(state.parts), state.newest,
            f"{state.lag:,}", f"{state.verified_offsets:,} of {state.committed_offsets:,}", state.result,
        )  # fmt: skip
    console = Console(soft_wrap=True)
    console.print(table)
    for state in states:
        for reason in state.waiting:
            console.print(f"{state.table} waits: {reason}", markup=False)
