"""`headwater up`: the whole installation in one terminal."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from infra.errors import ConfigError
from infra.ops.embedded.servers.child import StartFailed
from infra.ops.embedded.stack import EmbeddedStack, StackOptions

app = typer.Typer(add_completion=False, rich_markup_mode=None)


def print_line(name: str, text: str) -> None:
    """Print one line and flush it. A closed terminal or pipe does not stop the services."""
    with suppress(OSError):
        typer.echo(f"  {name:<12}{text}")
        sys.stdout.flush()


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM and SIGHUP as on Ctrl-C. A second signal while services stop kills them."""

    def stop(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_stack(options: StackOptions, report: Callable[[str, str], None], ready: Callable[[EmbeddedStack], None]) -> None:
    """Start all services, call `ready` once, run until a signal, then stop them in order.

    ConfigError for what the user can correct. `ready` may run for as long as it calls `stack.supervisor.tick` meanwhile.
    """
    with stopped_by_signals():
        try:
            with EmbeddedStack(options, report) as stack:
                stack.wait_ready()
                ready(stack)
        except StartFailed as error:
            raise ConfigError(
                f"the house does not start: {error}\nLogs are in {options.state_dir.resolve() / 'logs'}"
            ) from None


def ops_page_address(stack: EmbeddedStack) -> str:
    """Return the ops page's address: on a terminal with the token that signs in, elsewhere with the token's file."""
    if sys.stdout.isatty() and stack.settings.ops_token:
        return f"{stack.settings.gauge_url}/?token={stack.settings.ops_token.get_secret_value()}"
    return f"{stack.settings.gauge_url}  (token in {stack.state.path / 'ops-token'})"


@app.command(epilog="Example: headwater up --consent-workers 2")
def up_command(  # noqa: PLR0913, PLR0917 - each parameter is an option of the command
    state_dir: Annotated[
        Path, typer.Option(envvar="HEADWATER_STATE_DIR", help="Where data, logs and secrets of this house lie.")
    ] = Path(".headwater"),
    kafka: Annotated[str | None, typer.Option(envvar="HEADWATER_KAFKA", help="Use this broker, HOST:PORT.")] = None,
    redis: Annotated[str | None, typer.Option(envvar="HEADWATER_REDIS", help="Use this Redis, URL.")] = None,
    clickhouse: Annotated[str | None, typer.Option(envvar="HEADWATER_CLICKHOUSE", help="Use this ClickHouse, URL.")] = None,
    kafka_port: Annotated[int | None, typer.Option(help="9092 when free, else a free one.")] = None,
    redis_port: Annotated[int | None, typer.Option(help="6379 when free, else a free one.")] = None,
    clickhouse_port: Annotated[int | None, typer.Option(help="8123 when free, else a free one.")] = None,
    collector_port: Annotated[int | None, typer.Option(help="8080 when free, else a free one.")] = None,
    decisions_port: Annotated[int | None, typer.Option(help="8081 when free, else a free one.")] = None,
    gauge_port: Annotated[int | None, typer.Option(help="8082 when free, else a free one.")] = None,
    consent_workers: Annotated[int, typer.Option(min=1, max=32, help="Workers of the consent stage.")] = 1,
) -> None:
    """Start the whole house on this machine; Ctrl-C stops it.

    Starts Kafka, Redis and ClickHouse unless told where they are, then every service, and starts again what crashes.
    """
    ports = {
        "kafka": kafka_port,
        "redis": redis_port,
        "clickhouse": clickhouse_port,
        "collector": collector_port,
        "decisions": decisions_port,
        "gauge": gauge_port,
    }
    fixed_ports = {name: port for name, port in ports.items() if port}
    options = StackOptions(state_dir, kafka, redis, clickhouse, fixed_ports, consent_workers)
    began = time.monotonic()

    def ready(stack: EmbeddedStack) -> None:
        print_line("ready", f"in {time.monotonic() - began:.1f} s; Ctrl-C stops all")
        print_line("ops page", ops_page_address(stack))
        stack.supervisor.run_until(lambda: False)

    print_line("house", f"in {state_dir.resolve()}")
    try:
        run_stack(options, print_line, ready)
    except KeyboardInterrupt:
        print_line("house", "stopped")
