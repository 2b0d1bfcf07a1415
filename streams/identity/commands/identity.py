"""`headwater identity`: inspect the graph, compare it with its log, rebuild it, split and tidy it."""

import typer

from streams.identity.commands.log import diff_command, rebuild_command
from streams.identity.commands.show import show_command, why_command
from streams.identity.commands.split import split_command, tidy_command

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Inspect the identity graph, explain why ids are linked, take an id out; compare the graph with its log, rebuild it.",
    rich_markup_mode=None,
)

app.command("rebuild", epilog="Example: headwater identity rebuild")(rebuild_command)
app.command("diff", epilog="Example: headwater identity diff --json")(diff_command)
app.command("show", epilog="Example: headwater identity show user=jo@shop.example")(show_command)
app.command("why", epilog="Example: headwater identity why user=jo@shop.example cookie=1234567890.1234567890")(why_command)
app.command("split", epilog="Example: headwater identity split cookie=1234567890.1234567890 --dry-run")(split_command)
app.command("tidy", epilog="Example: headwater identity tidy --hours 48")(tidy_command)


@app.callback(epilog="Example: headwater identity show user=jo@shop.example")
def identity() -> None:
    """Inspect the identity graph, explain why ids are linked, take an id out; compare the graph with its log, rebuild it."""
