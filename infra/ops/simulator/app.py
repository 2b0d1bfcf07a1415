"""`headwater simulate`: sends simulated traffic over the real HTTP interfaces and writes a ledger."""

import asyncio
import random
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from infra.clients.kafka import producer
from infra.errors import ConfigError
from infra.ops.simulator.ledger import EndLine, EventLine, RefusalLine, RunLine, Writer
from infra.ops.simulator.marks import run_id
from infra.ops.simulator.reconcile import drain
from infra.ops.simulator.sender import PATIENCE_S, Line, Sender, SendProgress, SendRate, Target
from infra.ops.simulator.world.acts import EXPERIMENT
from infra.ops.simulator.world.world import MIX, NOWHERE, REGIONS, ShopWorld
from infra.settings import Settings, load_settings

EVERY_S = 5.0
POLL_S = 0.25
WIDTH = 48
SNAPSHOT_S = 60.0

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: headwater simulate --events 5000 --seed 7 --ledger ledger.jsonl")
def simulate(  # noqa: PLR0913, PLR0917 - the options of a command
    events: Annotated[int, typer.Option("--events", min=1, help="Unique events to send.")] = 10_000,
    rate: Annotated[float, typer.Option("--rate", min=0, help="Events a second; 0 = as fast as the house takes them.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="The same seed makes the same visitors do the same.")] = 1,
    ledger: Annotated[Path, typer.Option("--ledger", help="File to write the ledger to.")] = Path("ledger.jsonl"),
    width: Annotated[int, typer.Option("--width", min=1, max=1000, help="Households at a time.")] = WIDTH,
    patience: Annotated[
        float,
        typer.Option("--patience", min=0, help="Seconds to wait for the house to drain between acts; 0 = follow no refusals."),
    ] = PATIENCE_S,
) -> None:
    """Send a realistic day of traffic and keep a ledger of what must become of it."""
    settings = load_settings()
    key = demo_key(settings)
    publish_experiment(settings)
    run = RunLine(run_id(random.Random(secrets.randbits(64))), seed, events, int(time.time() * 1000))
    with Writer(ledger, run) as writer:

        def write_line(line: Line) -> None:
            writer.write("event" if isinstance(line, EventLine) else "decision", line)

        target = Target(settings.collector_url, settings.decisions_url, key, settings.region_header, _poison_producer(settings))
        # Without a trusted region header the collector treats every region as unknown, so the ledger must too.
        mix = MIX if patience else replace(MIX, stories=0)
        world = ShopWorld(seed, run.run, events, mix, regions=REGIONS if settings.region_header else NOWHERE)
        plan = SimulationPlan(events, width, partial(drain.wait_settled, settings, patience))
        sender = Sender(target, SendRate(rate, time.monotonic()), write_line, seed)
        progress = asyncio.run(_run_world(sender, world, plan))
        for refusal in world.refusals:
            writer.write("refusal", RefusalLine(refusal.number, refusal.channel, refusal.consented_again))
        end = EndLine(int(time.time() * 1000), progress.events, progress.acknowledged, progress.open)
        writer.write("end", end)
    Console(stderr=True).print(
        f"run {run.run}: {progress.events} events, {progress.acknowledged} acknowledged, {progress.refused} refused, "
        f"{progress.open} open, {progress.decisions} decisions, {progress.retries} retries; ledger in {ledger}",
        highlight=False,
    )
    if progress.open:
        raise typer.Exit(1)


def demo_key(settings: Settings) -> str:
    """Return the write key that `headwater up` created for the simulator. ConfigError."""
    file = settings.state_dir / "demo-key"
    try:
        return file.read_text().strip()
    except OSError as error:
        raise ConfigError(
            f"no write key in {file} ({error.strerror}): start the house with `headwater up`, or write one of "
            "`headwater keys create` there"
        ) from None


def publish_experiment(settings: Settings) -> None:
    """Publish the packaged experiment unless there is one of its key, and wait until the bandit has taken it in."""
    from streams.bandit.commands.experiments import EXAMPLE, load_experiments, load_snapshot, publish_experiment
    from streams.bandit.experiment import parse

    if load_experiments(settings).get(EXPERIMENT) is None:
        publish_experiment(settings, parse(EXAMPLE.read_bytes()))
    # Decisions before its first snapshot would be for an unknown experiment.
    deadline = time.monotonic() + SNAPSHOT_S
    while load_snapshot(settings, EXPERIMENT) is None:
        if time.monotonic() > deadline:
            raise ConfigError(
                f"the bandit published nothing for {EXPERIMENT} in {SNAPSHOT_S:.0f} s: is `headwater worker bandit` up?"
            )
        time.sleep(POLL_S)


class SimulationPlan(NamedTuple):
    """How a simulated world is sent."""

    events: int
    width: int
    """Journeys in parallel."""
    settle: Callable[[Callable[[drain.Lags], None]], None]
    """Waits until the refusals of an act are effective everywhere. NotDrained."""


async def _run_world(sender: Sender, world: ShopWorld, drive: SimulationPlan) -> SendProgress:
    with _show_progress(drive.events) as show:
        work = asyncio.create_task(_run_acts(sender, world, drive))
        while not work.done():
            await asyncio.wait((work,), timeout=POLL_S)
            show(sender.progress)
        await work
    return sender.progress


async def _run_acts(sender: Sender, world: ShopWorld, drive: SimulationPlan) -> None:
    """Send the acts in order. ConfigError where the stream does not drain between two."""
    for act, journeys in enumerate(world.acts()):
        if act:
            try:
                await asyncio.to_thread(drive.settle, sender.progress.drain)
            except drain.NotDrained as error:
                raise ConfigError(
                    f"{error}; what was refused cannot be followed: are the workers of consent and identity up? "
                    "(`--patience 0` sends events alone)"
                ) from None
        await sender.run(journeys, drive.width)


def _poison_producer(settings: Settings) -> Callable[[bytes, bytes], Awaitable[None]]:
    kafka = producer(settings)

    def produce(key: bytes, value: bytes) -> None:
        kafka.produce("events.raw", value, key)
        if kafka.flush(PATIENCE_S):
            raise ConfigError(f"Kafka at {settings.kafka} did not take a record in {PATIENCE_S:.0f} s")

    async def poison(key: bytes, value: bytes) -> None:
        await asyncio.to_thread(produce, key, value)

    return poison


@contextmanager
def _show_progress(events: int) -> Iterator[Callable[[SendProgress], None]]:
    """Show progress on stderr: a bar on a terminal, elsewhere a line every EVERY_S."""
    if not sys.stderr.isatty():
        yield _print_progress(events)
        return
    columns = (
        TextColumn("sending"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[retries]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task("sending", total=events, retries="")

        def show(progress: SendProgress) -> None:
            text = f"{progress.retries} retries {progress.trouble}" if progress.retries else ""
            bars.update(task, completed=progress.events, retries=text)

        yield show


def _print_progress(events: int) -> Callable[[SendProgress], None]:
    last = [time.monotonic()]

    def show(progress: SendProgress) -> None:
        if time.monotonic() - last[0] >= EVERY_S:
            last[0] = time.monotonic()
            trouble = f" ({progress.trouble})" if progress.trouble else f", {progress.waiting}" if progress.waiting else ""
            typer.echo(f"sent {progress.events}/{events}, {progress.retries} retries{trouble}", err=True)

    return show
