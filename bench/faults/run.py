"""One run: kills and faults in random order while events flow, then the proof."""

import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.faults.faults import DISK_FAULTS, FAULTS, FaultStage, Kills, Observation, Scale, kill_once, play, unplayable
from bench.faults.flow import Flow
from bench.faults.proof import Proof, Prover
from bench.faults.world import TOPIC, FaultWorld

RATE = 3_500.0
"""Events a second at the most."""
FAULT_WEIGHT = 3.0
"""Share of the events that flow during a fault, where that of one kill is 1."""
SETTLED_S = 300.0
DISK_BYTES = 1024 * 1024 * 1024
DISK_BYTES_PER_EVENT = 400


@dataclass(frozen=True)
class FaultPlan:
    """Kills and faults of a run, and their durations in seconds."""

    events: int
    kills: int
    seed: int
    faults: Sequence[str] = tuple(FAULTS)
    rate: float = RATE
    hold_s: float = 10.0
    hang_s: float = 75.0
    gap_s: tuple[float, float] = (1.0, 5.0)


@dataclass
class FaultProgress:
    """Progress of a run."""

    phase: str = "starting"
    events: int = 0
    kills: int = 0
    compared: int = 0
    begun: float = field(default_factory=time.monotonic)


@dataclass
class FaultResult:
    """Result of a run."""

    plan: FaultPlan
    kills: Kills
    observations: list[Observation]
    skipped: dict[str, str]
    proof: Proof
    own_ends: int
    """Loaders that ended by themselves and were started again, as `headwater up` does."""
    replays: int
    """Loader starts that found an uncommitted intent of a predecessor."""
    seconds: dict[str, float]
    load: list[float]

    @property
    def passed(self) -> bool:
        """Whether no row is lost or doubled and every fault was seen."""
        return self.proof.exact and all(observation.passed for observation in self.observations)

    def figures(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "passed": self.passed,
            "plan": asdict(self.plan),
            "kills": asdict(self.kills) | {"total": self.kills.total},
            "faults": [asdict(observation) | {"passed": observation.passed} for observation in self.observations],
            "skipped": self.skipped,
            "proof": self.proof.figures(),
            "loader_own_ends": self.own_ends,
            "replays": self.replays,
            "seconds": self.seconds,
            "load": self.load,
        }


def run(plan: FaultPlan, folder: Path, report: Callable[[FaultProgress], None] = lambda _: None) -> FaultResult:
    """Play a plan in a folder, and prove the result. WorldError where the processes do not recover."""
    skipped = {name: reason for name, reason in unplayable().items() if name in plan.faults}
    faults = [name for name in plan.faults if name not in skipped]
    disk_bytes = DISK_BYTES + DISK_BYTES_PER_EVENT * plan.events if set(DISK_FAULTS) & set(faults) else 0
    progress, rng = FaultProgress(), random.Random(plan.seed)
    with FaultWorld(folder, disk_bytes=disk_bytes) as world:
        flow = Flow(world.settings, world.registry.latest(TOPIC), plan.seed, plan.rate)

        def report_phase(phase: str, compared: int = 0) -> None:
            progress.phase, progress.events = phase, flow.sent
            progress.compared += compared
            report(progress)

        prover = Prover(world, flow.ledger, lambda compared: report_phase("comparing", compared))
        weight = plan.events / (plan.kills + FAULT_WEIGHT * len(faults))
        scale = Scale(int(weight * FAULT_WEIGHT), plan.hold_s, plan.hang_s, plan.gap_s)
        stage = FaultStage(world, flow, prover, scale, rng)
        flow.start()
        try:
            kills, observations = _play(plan, stage, faults, progress, report_phase)
            report_phase("settling")
            world.set_loaders(1)
            flow.allow(max(0, plan.events - flow.sent))
            world.wait(lambda: not flow.behind, SETTLED_S + plan.events / plan.rate, "the last events are not sent")
            flow.pause()
            settled = time.monotonic()
            world.wait_caught_up(SETTLED_S)
            report_phase("comparing")
            proving = time.monotonic()
            proof = prover.finish()
        finally:
            flow.stop()
        seconds = {
            "flow": round(settled - progress.begun, 1),
            "settle": round(proving - settled, 1),
            "last_proof": round(time.monotonic() - proving, 1),
            "total": round(time.monotonic() - progress.begun, 1),
        }
        own_ends = sum(loader.own_ends for loader in world.loaders)
        return FaultResult(plan, kills, observations, skipped, proof, own_ends, _replays(world), seconds, _load())


def _play(
    plan: FaultPlan, stage: FaultStage, faults: list[str], progress: FaultProgress, report_phase: Callable[[str], None]
) -> tuple[Kills, list[Observation]]:
    """Play kills with faults between them in random order, with one loader or two."""
    world, rng = stage.world, stage.random
    script: list[str] = [*faults, *["kill"] * plan.kills]
    rng.shuffle(script)
    kills, observations = Kills(), []
    world.set_loaders(1)
    stage.let_flow(0.2)
    for step, name in enumerate(script):
        if step % 12 == 0:
            world.set_loaders(rng.choice((1, 2)))
        report_phase(name)
        if name == "kill":
            kill_once(stage, kills, 1 / FAULT_WEIGHT)
            progress.kills = kills.total
        else:
            observations.append(play(name, stage))
    return kills, observations


def _replays(world: FaultWorld) -> int:
    logs = (world.folder / f"{loader.name}.log" for loader in world.loaders)
    return sum(log.read_text().count("replaying what a predecessor") for log in logs if log.exists())


def _load() -> list[float]:
    return [round(load, 1) for load in os.getloadavg()]
