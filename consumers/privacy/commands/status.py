"""`headwater privacy status`: requests that some room has not answered."""

import json
import time
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from consumers.privacy.reading import read_topics
from infra.clients.kafka import settings_with_kafka
from infra.settings import Settings
from schemas.codec import decode
from schemas.registry import Registry
from streams.runtime.privacy.request_consumer import ACKS, REQUESTS
from streams.runtime.privacy.requests import RequestLog


def read_requests(settings: Settings) -> RequestLog:
    """Read all requests and acks. Retryable while Kafka is away."""
    registry, log = Registry(settings.contracts), RequestLog()
    for message in read_topics(settings, (REQUESTS, ACKS)):
        log.add(message.topic(), decode(registry, message.value())[1])
    return log


def status_command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Open requests, since when, and which rooms have not answered; exits 1 when one is overdue."""
    requests, now = read_requests(settings_with_kafka()), int(time.time() * 1000)
    pending = requests.pending()
    overdue = [request for request in pending if request.overdue(now)]
    if as_json:
        rows = [{**request._asdict(), "overdue": request.overdue(now)} for request in pending]
        typer.echo(json.dumps({"answered": requests.answered, "open": rows}))
    else:
        table = Table("request", "kind", "asked", "must be answered by", "waits for", "")
        for request in pending:
            late = "overdue" if request.overdue(now) else ""
            table.add_row(
                request.request_id[:12], request.kind, _time(request.requested_ts), _time(request.deadline_ts),
                ", ".join(request.missing), late,
            )  # fmt: skip
        if pending:
            Console().print(table)
        typer.echo(f"{requests.answered} answered, {len(pending)} open, {len(overdue)} overdue")
    if overdue:
        raise typer.Exit(1)


def _time(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
