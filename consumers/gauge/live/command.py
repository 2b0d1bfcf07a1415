"""`headwater live`: prints events as they arrive, from the gauge's `/v1/live`."""

import asyncio
import signal
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
import typer

from infra.errors import ConfigError, Retryable
from infra.settings import load_settings

CONNECT_S = 5.0
SILENCE_S = 45.0
"""Seconds without anything, three heartbeats, after which the gauge counts as away."""
LINE_BYTES = 4 * 1024 * 1024

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: headwater live --source web-de --only refused")
def live(
    source: Annotated[list[str] | None, typer.Option(help="Only events of this source; may be given several times.")] = None,
    event: Annotated[list[str] | None, typer.Option(help="Only events of this name; may be given several times.")] = None,
    only: Annotated[str, typer.Option(help="refused: dropped events and dead letters; problems: those with problems.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print events as they arrive, a line each, until Ctrl-C: what was decided, why, and the row that they became.

    The marks are the purposes' first letters: a+ analytics granted, m- marketing refused. The gauge must run, and where it
    has a token, HEADWATER_OPS_TOKEN must name it. A listener that is too slow loses events and is told how many.
    """
    settings = load_settings()
    token = settings.ops_token.get_secret_value() if settings.ops_token else ""
    query = [("source", name) for name in source or ()] + [("event", name) for name in event or ()]
    query += [("only", only)] if only else []
    asyncio.run(_until_signal(settings.gauge_url, token, query, as_json))


async def _until_signal(url: str, token: str, query: list[tuple[str, str]], as_json: bool) -> None:
    task = asyncio.ensure_future(_print_events(url, token, query, as_json))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return


async def _print_events(url: str, token: str, query: list[tuple[str, str]], as_json: bool) -> None:
    """Print until the gauge ends the stream. ConfigError where it refuses, Retryable where it is away."""
    import aiohttp

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, read_bufsize=LINE_BYTES) as session,
            session.get(f"{url.rstrip('/')}/v1/live", params=query, headers=headers) as answer,
        ):
            if answer.status != 200:
                raise ConfigError(_refusal(answer.status, await answer.text()))
            async for kind, data in read_messages(answer.content):
                _print_message(kind, data, as_json)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Retryable(f"the gauge at {url} does not answer ({type(error).__name__})") from None
    raise Retryable(f"the gauge at {url} has stopped")


def _refusal(status: int, body: str) -> str:
    if status == 401:
        return "the gauge wants its token: set HEADWATER_OPS_TOKEN"
    try:
        reason = str(orjson.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        reason = body[:200]
    return f"the gauge refuses ({status}): {reason}"


async def read_messages(lines: AsyncIterable[bytes]) -> AsyncIterator[tuple[str, Any]]:
    """Yield (kind, data) of each message of the stream; comments as `comment` with their text."""
    kind, data = "", b""
    async for line in lines:
        name, _, value = line.rstrip(b"\r\n").partition(b": ")
        if name == b"event":
            kind = value.decode()
        elif name == b"data":
            data = value
        elif not name and value:
            yield "comment", value.decode()
        elif not name and kind:
            yield kind, orjson.loads(data)
            kind, data = "", b""


def _print_message(kind: str, data: Any, as_json: bool) -> None:
    if kind == "event":
        typer.echo(orjson.dumps(data).decode() if as_json else format_event(data))
    elif kind == "lost":
        typer.echo(f"{data['lost']:,} events were not shown: they came faster than they were taken", err=True)
    elif kind == "comment" and data == "listening":
        typer.echo("listening; Ctrl-C ends", err=True)


def format_event(event: Mapping[str, Any]) -> str:
    """One line of an event as `/v1/live` sends it."""
    time = datetime.fromtimestamp(event["time_ms"] / 1000, UTC)
    marks = " ".join(f"{ruling['purpose'][:1]}{'+' if ruling['granted'] else '-'}" for ruling in event.get("rulings", ()))
    parts = [
        f"{time:%H:%M:%S}.{time.microsecond // 1000:03d}",
        f"{event.get('source', '') or '-':<12}",
        f"{event.get('event_name', '') or '-':<20}",
        f"{marks or '-':<8}",
        f"{_fate(event)}",
    ]
    refused = {ruling["reason"] for ruling in event.get("rulings", ()) if not ruling["granted"]}
    parts += [", ".join(sorted(refused))] if refused else []
    parts += [f"problems: {'; '.join(event['problems'])}"] if event.get("problems") else []
    parts += [f"sent {event['copies']} times"] if event.get("copies", 1) > 1 else []
    parts += [f"id {event['event_id']}"] if event.get("event_id") else []
    return "  ".join(parts)


def _fate(event: Mapping[str, Any]) -> str:
    state = event["state"]
    if state == "resolved":
        return f"{event.get('outcome', '')} -> row {event['row']}"
    if state == "dead":
        return f"dead letter {event.get('letter', '')} of {event.get('stage', '')}"
    if state == "waiting":
        return f"waits for {event.get('waits_for', '')}"
    return str(state)


__all__ = ["app", "format_event", "read_messages"]
