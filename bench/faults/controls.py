"""Negative controls: loaders and an endpoint without a safeguard must lose or double, where the product does not.

Each plays the fault that its safeguard is for, aimed: on the product first, then on what lacks it.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.faults.flow import Flow
from bench.faults.proof import EVENTS, Proof, Prover
from bench.faults.world import TOPIC, FaultWorld, ServerCommand, embedded_clickhouse

ROOT = Path(__file__).resolve().parents[2]
RATE = 4_000.0
ROUNDS = 6
ROUND_EVENTS = 2_500
AIM_S = 20.0
DIE = 0.5
SETTLED_S = 120.0


def old_insert_server(folder: Path, port: int, memory_bytes: int) -> Sequence[str]:
    """The endpoint that answers 200 to inserts that failed."""
    return [sys.executable, "-m", "bench.faults.old_insert", str(folder), "--port", str(port), "--memory", str(memory_bytes)]


def play_kills_between_log_and_part(world: FaultWorld, flow: Flow, rounds: int) -> str:
    """Kill ClickHouse when a token is in the table's log of tokens and its part is not in the table yet."""
    hits = 0
    deadline = time.monotonic() + 3 * AIM_S
    while hits < rounds and time.monotonic() < deadline:
        flow.allow(ROUND_EVENTS)
        folder = Path(world.store.rows("SELECT data_paths[1] FROM system.tables WHERE name = 'events'")[0][0])
        if _stop_between_log_and_part(world.clickhouse.pid, folder):
            hits += 1
            world.kill_clickhouse()
        world.sleep(1.5)
    return f"{hits} kills of ClickHouse between a token's record and its part"


def _stop_between_log_and_part(pid: int, folder: Path) -> bool:
    """Stop the process at such a moment; return False where none came, and let it run on.

    The log is watched as closely as one can from outside. Whether the part is still under its temporary name is looked at
    once the process stands still.
    """
    logs = folder / "deduplication_logs"
    deadline = time.monotonic() + AIM_S
    while time.monotonic() < deadline:
        files = list(logs.glob("*.txt"))
        size = _size(files)
        started = time.monotonic()
        while (grown := _size(files)) == size and time.monotonic() - started < 1.0:
            pass
        if grown == size:
            continue
        os.kill(pid, signal.SIGSTOP)
        if any(part.name.startswith("tmp_insert") for part in folder.iterdir()):
            return True
        os.kill(pid, signal.SIGCONT)
    return False


def _size(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def play_kills_before_commit(world: FaultWorld, flow: Flow, rounds: int) -> str:
    """Let loaders kill themselves between an insert and its commit."""
    deadline = time.monotonic() + 3 * AIM_S
    while world.loaders[0].own_ends < rounds and time.monotonic() < deadline:
        flow.allow(ROUND_EVENTS)
        world.sleep(1.5)
    world.wait(lambda: not flow.behind, SETTLED_S, "the events are not sent")
    world.wait_caught_up(SETTLED_S)
    return f"{world.loaders[0].own_ends} kills of the loader between an insert and its commit"


def play_constraint(world: FaultWorld, flow: Flow, rounds: int) -> str:
    """Add a CHECK constraint that some events break, for a while."""
    world.store.command(f"ALTER TABLE {EVENTS} ADD CONSTRAINT bench CHECK value < 850")
    flow.allow(rounds * ROUND_EVENTS)
    world.wait(lambda: not flow.behind, SETTLED_S, "the events are not sent")
    world.sleep(3.0)
    world.store.command(f"ALTER TABLE {EVENTS} DROP CONSTRAINT bench")
    return "a CHECK constraint for some seconds"


@dataclass(frozen=True)
class NegativeControl:
    """A loader or server without a safeguard, and the fault that shows it."""

    loader: str
    play: Callable[[FaultWorld, Flow, int], str]
    server: ServerCommand = embedded_clickhouse
    die: float = 0.0


CONTROLS = {
    "token-only": NegativeControl("token-only", play_kills_between_log_and_part),
    "no-intent": NegativeControl("no-intent", play_kills_before_commit, die=DIE),
    "old-insert": NegativeControl("no-count", play_constraint, old_insert_server),
}


@dataclass
class ControlResult:
    """Proofs by loader, and the faults that hit."""

    name: str
    proofs: dict[str, Proof]
    aimed: str

    @property
    def passed(self) -> bool:
        """Whether the product is exact and the control is not."""
        product, weakened = self.proofs.values()
        return product.exact and (weakened.ids_missing + weakened.ids_doubled > 0)

    def figures(self) -> dict[str, Any]:
        """Plain values."""
        proofs = {name: proof.figures() for name, proof in self.proofs.items()}
        return {"control": self.name, "passed": self.passed, "aimed": self.aimed, "proofs": proofs}


def run_control(name: str, folder: Path, seed: int) -> ControlResult:
    """Prove the product, then the control."""
    control, proofs, aimed = CONTROLS[name], {}, []
    for loader in ("product", control.loader):
        proofs[loader], text = prove(control, loader, folder / loader, seed)
        aimed.append(f"{loader}: {text}")
    return ControlResult(name, proofs, "; ".join(aimed))


def prove(control: NegativeControl, loader: str, folder: Path, seed: int, rounds: int = ROUNDS) -> tuple[Proof, str]:
    """Play a control's fault on a loader; return the proof and how often the fault hit."""
    command = (sys.executable, "-m", "bench.faults.control_loader", loader)
    environment = {"PYTHONPATH": str(ROOT), "BENCH_DIE_AFTER_INSERT": str(control.die)}
    folder.mkdir()
    with FaultWorld(folder, loader=command, server=control.server, environment=environment) as world:
        flow = Flow(world.settings, world.registry.latest(TOPIC), seed, RATE)
        flow.start()
        try:
            world.set_loaders(1)
            flow.allow(ROUND_EVENTS)
            world.wait(lambda: not flow.behind, SETTLED_S, "the events are not sent")
            if not control.die:
                world.wait_caught_up(SETTLED_S)
            text = control.play(world, flow, rounds)
            world.wait(lambda: not flow.behind, SETTLED_S, "the events are not sent")
            flow.pause()
            world.wait_caught_up(SETTLED_S)
            return Prover(world, flow.ledger).finish(), text
        finally:
            flow.stop()
