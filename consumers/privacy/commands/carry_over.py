"""`headwater consent carry-over`: repeats choices and withdrawals under the newest keys."""

import json
import time
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from consumers.privacy.carry_over import translate_states
from infra.clients.kafka import settings_with_kafka
from infra.errors import ConfigError, Retryable, unreachable_message
from streams.consent.ledger.ledger_writes import SIGNALS

CHUNK = 10_000


def carry_over_command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Say what is remembered of everybody's consent again, under their names of the newest version of the keys.

    For a rotation of the keys (HEADWATER_NODE_KEY_VERSION): a refusal under the version before holds under the newest too. Run
    it before the older version goes out of use, and once more after that; what was said already changes nothing.
    """
    from consumers.privacy.erasure import open_erasures
    from consumers.privacy.topics import TransactionalWriter, WriterRecord

    settings, written = settings_with_kafka(), 0
    if settings.node_key_version == 1:
        raise ConfigError("there is only one version of the keys: HEADWATER_NODE_KEY_VERSION is 1")
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} records of consent.state"), TimeElapsedColumn())
    try:
        if open_erasures(settings):
            raise ConfigError(
                "somebody is being erased: `headwater privacy erase` with the id completes it, then run this again"
            )
        writer = TransactionalWriter(settings)
        with (
            Progress(*columns, console=Console(stderr=True), transient=True, disable=as_json) as bar,
            TemporaryDirectory() as folder,
        ):
            task = bar.add_task("", total=None)
            states = translate_states(settings, Path(folder), int(time.time() * 1000), lambda n: bar.advance(task, n))
            while records := [WriterRecord(SIGNALS, key, value) for key, value in islice(states, CHUNK)]:
                writer.write(records)
                written += len(records)
    except Retryable as error:
        raise ConfigError(unreachable_message(error)) from error
    typer.echo(json.dumps({"said": written}) if as_json else f"{written:,} states said again; the gate takes them down")
