"""What the privacy commands share: their connections, the people that an argument names, and their messages."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from consumers.privacy.context import SLOTS, PrivacyContext
from consumers.privacy.erasure import ErasurePending, Report, open_erasures
from consumers.warehouse.store import SEARCH_S, Store
from infra.clients.kafka import settings_with_kafka
from infra.errors import ConfigError, Retryable, unreachable_message
from infra.settings import Settings
from schemas.registry import Registry
from streams.consent.app import open_states
from streams.consent.policy import PACKAGED, load_policy
from streams.identity.app import open_store
from streams.identity.commands import identifier_args
from streams.identity.graph.union_find import ERASED
from streams.identity.nodes import alias
from streams.identity.repair.erasing import Members, NotErasable

REQUEST = re.compile(r"[0-9a-f]{32}")
"""Id of a request."""
PATIENCE_S = 120.0

Who = Annotated[str, typer.Argument(metavar="WHO", help=f"{identifier_args.HELP} Or the id of a request.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def open_context(quiet: bool) -> Iterator[tuple[PrivacyContext, Report]]:
    """Open the stores, and a display of the current step on standard error. ConfigError where a service is away."""
    settings = settings_with_kafka()
    keep_days = load_policy(settings.policy or PACKAGED).memory.max_age_days
    states = open_states(settings, Registry(settings.contracts), keep_days)
    context = PrivacyContext(settings, open_store(settings), states, Store(settings, SEARCH_S), alias(settings.master))
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as bar:
            task = bar.add_task("looking", total=None)
            yield context, lambda step: bar.update(task, description=step)
    except ErasurePending as error:
        raise ConfigError(f"not done yet: {error}") from error
    except NotErasable as error:
        raise ConfigError(str(error)) from error
    except Retryable as error:
        raise ConfigError(unreachable_message(error)) from error
    finally:
        context.warehouse.close()
        context.graph.close()


def find_open_erasure(context: PrivacyContext, names: Sequence[str]) -> dict[str, Any] | None:
    """The open erasure with this request id or one of these nodes. Retryable."""
    requested = set(names)
    for request_id, erasure in open_erasures(context.settings).items():
        if requested.intersection([request_id, *erasure["nodes"]]):
            return erasure
    return None


def warn_if_unknown(is_known: bool, counts: Mapping[str, int]) -> None:
    """Warn where nothing is held of an id: a misspelt id must not look like a person who is erased."""
    if not is_known and not any(n for place, n in counts.items() if place != SLOTS):
        typer.echo("nothing is held of this id: it is spelt otherwise, was forgotten already, or came a moment ago", err=True)


def resolve_names(settings: Settings, text: str) -> list[str]:
    """The id of a request as it is, or the nodes of an identifier. ConfigError."""
    return [text] if REQUEST.fullmatch(text) else identifier_args.nodes_of(settings, text)


def search_targets(context: PrivacyContext, names: Sequence[str]) -> list[tuple[Members, int]]:
    """Members to search for, each with the time until which events count (milliseconds UTC); those not erased come first."""
    slots = list(zip(names, context.graph.read(names), strict=True))
    erased = any(slot is not None and slot.state == ERASED for _, slot in slots)
    # An unknown name of a person who was erased under another version of the keys is not searched for.
    alive = [name for name, slot in slots if (slot is None and not erased) or (slot is not None and slot.state != ERASED)]
    targets = [(context.members(alive), int(time.time() * 1000))] if alive else []
    for name, slot in slots:
        if slot is not None and slot.state == ERASED:
            # Later events carry the alias of this epoch, which belongs to a new person.
            before = [context.alias(name, epoch) for epoch in range(1, slot.epoch)]
            targets.append((Members((name,), tuple(sorted([name, *before])), ()), slot.since))
    return targets


__all__ = [
    "PATIENCE_S", "REQUEST", "AsJson", "Who", "find_open_erasure", "open_context", "resolve_names", "search_targets",
    "warn_if_unknown",
]  # fmt: skip
