"""`headwater`: the table of commands. Each room's app file defines its own."""

import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from infra.errors import EXIT_CONFIG, EXIT_FENCED, EXIT_HALTED, ConfigError, Halted, Retryable, unreachable_message
from infra.parsing.environment import clean_environment

# command -> (module:attribute of a typer app, help); imported when the command runs, so that --help is fast.
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("infra.ops.embedded.app:app", "Start the whole house on this machine; Ctrl-C stops it."),
    "demo": ("infra.ops.embedded.demo:app", "Start the house, simulate a day, reconcile the ledger."),
    "doctor": ("infra.ops.doctor.app:app", "Check this machine and this installation, and say what to do."),
    "collect": ("streams.collector.app:app", "Serve the collector's HTTP doors."),
    "worker": ("streams.runtime.app:app", "Run one stream processor: consent, identity or bandit."),
    "warehouse": ("consumers.warehouse.app:app", "Load the stream into ClickHouse, exactly once."),
    "decide": ("consumers.decisions.app:app", "Serve the bandit's decisions."),
    "gauge": ("consumers.gauge.app:app", "Watch lag and serve the ops page."),
    "topics": ("infra.ops.topics:app", "Create and check Kafka topics."),
    "contracts": ("infra.ops.contracts:app", "Lint, compare, show and publish the Avro contracts."),
    "events": ("infra.ops.events.app:app", "Find one event in every layer, and tell what became of it."),
    "live": ("consumers.gauge.live.command:app", "Print events as they arrive, with their decision and their row."),
    "dead": ("streams.runtime.dead_letters.app:app", "List, show and replay dead letters."),
    "consent": (
        "infra.ops.consent:app",
        "Explain what the consent policy does with an event; verify its audit.",
    ),
    "identity": (
        "streams.identity.commands.identity:app",
        "Show what is linked, split and tidy it, compare the identity graph with its log, rebuild it.",
    ),
    "privacy": ("consumers.privacy.app:app", "Erase a person, export what is held of her, verify it; see requests."),
    "upkeep": ("infra.ops.upkeep:app", "Do what is due once a day or a week: tidy identities, forget old ones."),
    "experiments": ("streams.bandit.commands.experiments:app", "Publish and list experiments."),
    "keys": ("streams.collector.commands.keys:app", "Make, list and revoke write keys."),
    "simulate": ("infra.ops.simulator.app:app", "Send a realistic day of traffic and keep a ledger of it."),
    "reconcile": ("infra.ops.simulator.reconcile.app:app", "Compare every layer with the ledger."),
}


class LazyGroup(TyperGroup):
    """Imports a command's module when the command runs. (Typer bundles a click without public types.)"""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - click's signature
        """All commands, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - click's signature
        """Return the command; None makes click suggest similar names."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command = typer.main.get_command(getattr(import_module(module), attribute))
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - click's signature
        """Print the table, so that help imports no room."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


app = typer.Typer(cls=LazyGroup, add_completion=False, rich_markup_mode=None, no_args_is_help=True)


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version as installed

        typer.echo(installed("headwater"))
        raise typer.Exit


@app.callback(epilog="Example: headwater up")
def headwater(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Headwater: a first-party event stream, exactly once, with consent enforced on the way."""


def main() -> None:
    """Run a command; turn expected errors into a message and an exit code."""
    clean_environment(os.environ)
    try:
        app(prog_name="headwater")
    except ConfigError as error:
        typer.secho(f"headwater: {error}", fg="red", err=True)
        sys.exit(EXIT_CONFIG)
    except Retryable as error:
        typer.secho(f"headwater: {unreachable_message(error)}", fg="red", err=True)
        sys.exit(EXIT_FENCED)
    except Halted as error:
        typer.secho(f"headwater halted: {error}", fg="red", err=True)
        sys.exit(EXIT_HALTED)


if __name__ == "__main__":
    main()
