"""`headwater consent carry-over`: choices and withdrawals said again under the newest keys."""

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from infra.errors import ConfigError, Retryable
from infra.kafka import producer
from infra.settings import load_settings
from streams.consent.carry_over import carried_over
from streams.consent.learning import SIGNALS

FLUSH_S = 30.0
AT_ONCE = 10_000


def carry_over_command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Say what is remembered of everybody's consent again, under their names of the newest version of the keys.

    For a rotation of the keys (HEADWATER_NODE_KEY_VERSION): a refusal under the version before holds under the newest too. Run
    it before the older version goes out of use, and once more after that; what was said already changes nothing.
    """
    from streams.privacy.erasure import opened

    settings = load_settings()
    if settings.node_key_version == 1:
        raise ConfigError("there is only one version of the keys: HEADWATER_NODE_KEY_VERSION is 1")
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} records of consent.state"), TimeElapsedColumn())
    kafka, said, failed = producer(settings), 0, list[str]()
    try:
        if opened(settings):
            raise ConfigError(
                "somebody is being erased: `headwater privacy erase` with the id completes it, then run this again"
            )
        with (
            Progress(*columns, console=Console(stderr=True), transient=True, disable=as_json) as bar,
            TemporaryDirectory() as folder,
        ):
            task = bar.add_task("", total=None)
            for key, value in carried_over(settings, Path(folder), int(time.time() * 1000), lambda n: bar.advance(task, n)):
                kafka.produce(SIGNALS, value, key, on_delivery=lambda error, _: failed.append(error.name()) if error else None)
                said += 1
                if said % AT_ONCE == 0 and kafka.flush(FLUSH_S):
                    break
        if kafka.flush(FLUSH_S) or failed:
            raise Retryable(f"Kafka did not take everything: {', '.join(sorted(set(failed))) or 'no answer'}. Run it again")
    except Retryable as error:
        raise ConfigError(f"{error}. Is the house up (`headwater up`), and does HEADWATER_STATE_DIR name it?") from error
    typer.echo(json.dumps({"said": said}) if as_json else f"{said:,} states said again; the gate takes them down")
