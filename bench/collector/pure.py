"""`python -m bench.collector.pure`: the collector's work on events without HTTP and Kafka, in us an event; with a profile."""

import argparse
import cProfile
import json
import os
import pstats
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from bench.collector.payloads import WORKLOADS, Workload, build_bodies
from infra.payload_keyring import PayloadKeyring
from infra.secrets import Secret
from infra.settings import PACKAGED_CONTRACTS
from infra.telemetry.metrics import Metrics
from schemas.registry import Registry
from streams.collector.fields.tolerant_json import load_body
from streams.collector.intake import Intake
from streams.collector.normalise import RequestContext
from streams.collector.write_keys import KeyKind
from streams.identity.nodes import NodeKeys

SECRET = Secret("bench-" * 6)
BATCH = 100


def accept_bodies(intake: Intake, workload: Workload, bodies: list[bytes]) -> int:
    """Parse and accept all events of these bodies; return how many were accepted."""
    request = RequestContext("web-de", "shop.example", time.time_ns() // 1_000_000, None, "", "203.0.113.9", "", KeyKind.SERVER)
    accepted = 0
    for body in bodies:
        items = workload.extract_items(load_body(body).payload)
        accepted += intake.accept_events(items, workload.parse_item, request).accepted
    return accepted


def best_us(run: Callable[[], object], events: int, rounds: int) -> float:
    """Return the least CPU time of `rounds` runs, in us an event."""
    least = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        run()
        least = min(least, time.process_time() - began)
    return least / events * 1e6


def measure(events: int, rounds: int, profiled: str | None) -> dict[str, float]:
    """Return us an event of each protocol, and of parsing its JSON alone."""
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        intake = Intake(Registry(PACKAGED_CONTRACTS), PayloadKeyring(Path(folder), SECRET), NodeKeys.derive(SECRET), Metrics())
        figures = {}
        for name, workload in WORKLOADS.items():
            if profiled not in (None, name):
                continue
            bodies = build_bodies(workload, "k" * 32, events, BATCH)
            assert accept_bodies(intake, workload, bodies) == events
            if profiled:
                profile = cProfile.Profile()
                profile.runcall(accept_bodies, intake, workload, bodies)
                pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(45)
            figures[name] = best_us(lambda: accept_bodies(intake, workload, bodies), events, rounds)  # noqa: B023 - called at once
            figures[f"{name}, JSON alone"] = best_us(lambda: list(map(orjson.loads, bodies)), events, rounds)  # noqa: B023 - called at once
        return figures


def main() -> None:
    """Parse the arguments, measure, and print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.collector.pure",
        description=__doc__,
        epilog="Example: python -m bench.collector.pure --profile own",
    )
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", choices=WORKLOADS, help="measure this protocol only, and print where its time goes")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args()
    figures = measure(arguments.events, arguments.rounds, arguments.profile)
    if arguments.json:
        print(json.dumps({"us_per_event": figures, "load": os.getloadavg()}))
        return
    for name, us in figures.items():
        print(f"{name:>20}: {us:6.1f} us CPU an event")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
