"""`python -m bench.warehouse_faults`: no row is lost or doubled while processes are killed and ClickHouse and Kafka fail.

Real Kafka, ClickHouse and loaders. Events flow into six partitions of events.resolved, one transaction in five is aborted.
Meanwhile, in an order that the seed decides: kill -9 of loaders and of ClickHouse, a full disk (root on Linux only), the
engine's memory full, a CHECK constraint, a failing materialised view, heavy queries beside, a hang, Kafka made anew, a topic
made anew. In the end every event is compared by offset, by id and by content. Exit code 1 unless all of it is exact and each
fault was seen in a metric and by `headwater doctor` within a minute.

With --control, the same proof over a loader or an endpoint that lacks a safeguard: exit code 1 unless that loses or doubles,
and the product, under the same faults, does not.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bench.faults.controls import CONTROLS, run_control
from bench.faults.faults import FAULTS, ON_REQUEST
from bench.faults.flow import ProducerError
from bench.faults.proof import Proof
from bench.faults.run import FaultPlan, FaultProgress, FaultResult, run
from bench.faults.world import WorldError
from infra.ops.embedded.servers.child import StartFailed

OUTPUT = Console(width=128)


def main() -> None:
    """Play the faults or a control, prove, and print the figures."""
    options = parse()
    # A run that is told to stop ends its processes and unmounts its disk.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="headwater-faults-") as folder:
        try:
            figures = control(options, Path(folder)) if options.control else faults(options, Path(folder))
        except (WorldError, StartFailed, TimeoutError, ProducerError) as error:
            sys.exit(f"the run cannot go on: {error}")
    if options.json:
        print(json.dumps(figures))
    if not figures["passed"]:
        sys.exit(1)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.warehouse_faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Examples: python -m bench.warehouse_faults --events 300000 --kills 40\n"
        "          python -m bench.warehouse_faults --only hang,disk-full --kills 0 --events 20000\n"
        "          python -m bench.warehouse_faults --control no-intent",
    )
    parser.add_argument("--events", type=_positive, default=5_000_000, help="events that flow, aborted ones included")
    parser.add_argument("--kills", type=_count, default=300, help="kill -9 in all, two of three of a loader")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the order, the moments and the contents")
    parser.add_argument(
        "--only",
        type=_names,
        default=list(FAULTS),
        metavar="FAULT,...",
        help=f"some of {', '.join(FAULTS)}; or {', '.join(ON_REQUEST)}",
    )
    parser.add_argument("--control", choices=sorted(CONTROLS), help="play what this one is weak at instead")
    parser.add_argument("--hang", type=float, default=75.0, metavar="SECONDS", help="how long ClickHouse hangs")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("0 or more")
    return number


def _names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    faults_available = [*FAULTS, *ON_REQUEST]
    unknown = [name for name in names if name not in faults_available]
    if unknown:
        raise argparse.ArgumentTypeError(f"no fault {', '.join(unknown)}: there are {', '.join(faults_available)}")
    return names


def faults(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Play kills and faults; print a table unless JSON is requested."""
    plan = FaultPlan(options.events, options.kills, options.seed, options.only, hang_s=options.hang)
    with Live(console=Console(stderr=True), refresh_per_second=2, transient=True) as live:

        def report(progress: FaultProgress) -> None:
            elapsed = time.monotonic() - progress.begun
            compared = f"  {progress.compared:,} compared" if progress.phase == "comparing" else ""
            live.update(
                Text(
                    f"{progress.phase:<16}{progress.events:>10,} of {plan.events:,} events  "
                    f"{progress.kills} of {plan.kills} kills  {elapsed / 60:.0f}:{elapsed % 60:02.0f}{compared}"
                )
            )

        result = run(plan, folder, report)
    if not options.json:
        show(result)
    return result.figures()


def control(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Play the same aimed faults on a weakened loader and on the product."""
    figures = run_control(options.control, folder, options.seed)
    if not options.json:
        for name, proof in figures.proofs.items():
            OUTPUT.print(f"{name}: {summary(proof)}", highlight=False)
        OUTPUT.print(f"{figures.aimed}; {'ok' if figures.passed else 'THE CONTROL PROVES NOTHING'}", highlight=False)
    return figures.figures()


def summary(proof: Proof) -> str:
    """Faults of a proof in one line."""
    wrong = [f"{name} {getattr(proof, name)}" for name in proof.WRONG if getattr(proof, name)]
    return f"{proof.events:,} events, {proof.rows:,} rows: " + (", ".join(wrong) or "missing 0, duplicates 0")


def show(result: FaultResult) -> None:
    """Print a table."""
    proof, plan = result.proof, result.plan
    table = Table("fault", "in a metric", "by doctor", "over after", "took", "", title=f"seed {plan.seed}")
    for observation in result.observations:
        required = observation.must_show
        table.add_row(
            observation.fault,
            seconds(observation.metric_s, required),
            seconds(observation.doctor_s, required),
            seconds(observation.settled_s, False),
            f"{observation.seconds:.0f} s",
            observation.failed.splitlines()[0] if observation.failed else observation.note,
        )
    for name, reason in result.skipped.items():
        table.add_row(name, "", "", "", "", f"not played: {reason}")
    OUTPUT.print(table)
    kills = result.kills
    OUTPUT.print(
        f"{kills.total} kills: {kills.loader} of loaders, {kills.clickhouse} of ClickHouse; {result.replays} met an insert "
        f"under way; loaders ended by themselves {result.own_ends} times",
        highlight=False,
    )
    OUTPUT.print(
        f"{proof.events:,} events committed, {proof.events_aborted:,} aborted; {proof.rows:,} rows, "
        f"{proof.records:,} records compared by offset, id and content",
        highlight=False,
    )
    wrong = ", ".join(f"{name.replace('_', ' ')} {getattr(proof, name)}" for name in proof.WRONG)
    OUTPUT.print(f"{'EXACT' if proof.exact else 'WRONG'}: {wrong}", highlight=False)
    for example in proof.examples:
        OUTPUT.print(f"  {example}", highlight=False)
    took = ", ".join(f"{name.replace('_', ' ')} {value:.0f} s" for name, value in result.seconds.items())
    OUTPUT.print(f"{took}; load {' '.join(map(str, result.load))}", highlight=False)


def seconds(value: float | None, required: bool) -> str:
    """A time as text, or what its absence means."""
    if value is None:
        return "NOT SEEN" if required else "-"
    return f"{value:.1f} s"


if __name__ == "__main__":
    main()
