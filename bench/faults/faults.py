"""The faults, each played while events flow: cause it, measure when metrics and `headwater doctor` show it, and end it."""

import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka.admin import AdminClient

from bench.faults.flow import Flow
from bench.faults.proof import EVENTS, Prover
from bench.faults.world import MEMORY_BYTES, TOPIC, FaultWorld, WorldError, mountable, resize, stopped_process
from infra.clients.kafka import admin
from infra.errors import Retryable
from infra.ops import topics as topics_app
from infra.ops.doctor.check_result import CheckResult, Grade
from infra.ops.embedded.servers.child import StartFailed
from infra.telemetry.metrics import LABELS

SEEN_WITHIN_S = 60.0
ASK_ANYWAY_S = 20.0
STOPPED_WITHIN_S = 10.0
SETTLED_WITHIN_S = 240.0
VIEW_METRIC = "headwater_view_failing"
MEMORY_LEVELS = tuple(millions * 1_000_000 for millions in (45, 38, 34))
LEVEL_S = 8.0
ANALYSTS = 3
HEAVY = (
    "SELECT uniqExact(event_id, page_url), uniqExact(_offset) FROM headwater.events",
    "SELECT event_name, source, count(), uniqExact(user_agent), quantileExact(value) FROM headwater.events GROUP BY 1, 2",
    "SELECT a.event_id, b.event_id FROM headwater.events a JOIN headwater.events b USING (event_id) ORDER BY a.value LIMIT 100",
    "SELECT uniqExact(number), groupBitXor(sipHash64(number)) FROM numbers(3000000)",
)
SPARE_BYTES = 4 * 1024 * 1024
UNRESERVABLE_BYTES = 900 * 1024
"""Free space in which ClickHouse begins nothing new: it reserves 1 MiB for an insert or a merge."""
MERGED_S = 3.0


@dataclass
class Scale:
    """Duration of faults in seconds, and events that flow meanwhile."""

    events: int
    hold_s: float
    hang_s: float
    gap_s: tuple[float, float]
    """Shortest and longest time between two kills."""


@dataclass
class Observation:
    """What one fault showed. Seconds count from its cause; None where it did not show within a minute."""

    fault: str
    metric_s: float | None = None
    metric: str = ""
    doctor_s: float | None = None
    finding: str = ""
    must_show: bool = True
    """Whether it must show: a fault that keeps no row from being loaded need not."""
    settled_s: float | None = None
    """From its end until everything sent meanwhile was loaded."""
    seconds: float = 0.0
    note: str = ""
    failed: str = ""

    @property
    def passed(self) -> bool:
        """Whether it showed in time, and everything was loaded afterwards."""
        return not self.failed and (not self.must_show or (self.metric_s is not None and self.doctor_s is not None))


@dataclass
class FaultStage:
    """The processes and producers that a fault uses."""

    world: FaultWorld
    flow: Flow
    prover: Prover
    scale: Scale
    random: random.Random

    def let_flow(self, share: float = 1.0) -> None:
        """Allow a fault's share of the events."""
        self.flow.check()
        self.flow.allow(self.scale.events * share)


Alarm = Callable[[dict[str, str]], str]
"""The line of /metrics that shows a fault; empty where none does."""


def waiting(pages: dict[str, str]) -> str:
    """The line of a loader that waits for ClickHouse."""
    for name, page in pages.items():
        for line in page.splitlines():
            if line.startswith("headwater_waiting{") and line.endswith(" 1.0") and 'service="clickhouse"' in line:
                return f"{name}: {line}"
    return ""


def failing_view(pages: dict[str, str]) -> str:
    """The line of a failing view."""
    lines = (line for page in pages.values() for line in page.splitlines())
    return next((line for line in lines if line.startswith(VIEW_METRIC + "{") and line.endswith(" 1.0")), "")


def unassigned(pages: dict[str, str]) -> str:
    """The line of a loader that waits, has no partitions, or does not answer (a failed scrape is `up == 0`)."""
    for name, page in pages.items():
        if not page:
            return f"{name}: up 0"
        for line in page.splitlines():
            if line.startswith("headwater_assigned_partitions{") and line.endswith(" 0.0"):
                return f"{name}: {line}"
            if line.startswith("headwater_waiting{") and line.endswith(" 1.0"):
                return f"{name}: {line}"
    return ""


class FaultWatch:
    """Looks at /metrics and asks `headwater doctor` until both show a fault."""

    def __init__(self, stage: FaultStage, observation: Observation, alarm: Alarm = waiting) -> None:
        self._world, self._observation, self._alarm = stage.world, observation, alarm
        self._begun = time.monotonic()
        self._doctor: Future[list[CheckResult]] | None = None

    def poll(self) -> bool:
        """Poll metrics and doctor once; whether both have shown the fault."""
        observation, elapsed = self._observation, time.monotonic() - self._begun
        if observation.metric_s is None and (line := self._alarm(self._world.metrics())):
            observation.metric_s, observation.metric = round(elapsed, 1), line
        # Doctor runs once the metric shows the fault, or should.
        if (
            observation.doctor_s is None
            and observation.must_show
            and (observation.metric_s is not None or elapsed > ASK_ANYWAY_S)
        ):
            self._ask_doctor(elapsed)
        return observation.metric_s is not None and (observation.doctor_s is not None or not observation.must_show)

    def _ask_doctor(self, elapsed: float) -> None:
        if self._doctor is None:
            self._doctor = self._world.doctor()
        elif self._doctor.done():
            finding = _service_finding(self._doctor.result())
            self._doctor = None
            if finding:
                self._observation.doctor_s, self._observation.finding = round(elapsed, 1), finding

    def until_seen(self, seconds: float = SEEN_WITHIN_S) -> bool:
        """Poll until both show it, for at most so many seconds."""
        deadline = time.monotonic() + seconds
        while not self.poll():
            if time.monotonic() > deadline:
                return False
            self._world.sleep(0.25)
        return True


def _service_finding(findings: Sequence[CheckResult]) -> str:
    """The first finding of doctor about services or the warehouse that is not OK."""
    for finding in findings:
        name = finding.check
        service = name in {"kafka", "clickhouse"} or "warehouse" in name or "view" in name
        if service and finding.grade is not Grade.OK and finding.detail.strip():
            return f"{finding.grade} {name}: {finding.detail}"
    return ""


def play(name: str, stage: FaultStage) -> Observation:
    """Play one fault from its cause until everything is loaded again."""
    observation, begun = Observation(name), time.monotonic()
    try:
        {**FAULTS, **ON_REQUEST}[name](stage, observation)
        over = time.monotonic()
        stage.world.wait(lambda: not stage.flow.behind, SETTLED_WITHIN_S, "the events of the fault are not sent")
        stage.world.wait_caught_up(SETTLED_WITHIN_S)
        stage.world.wait(lambda: not unassigned(stage.world.metrics()), SEEN_WITHIN_S, "an alarm stays on")
        observation.settled_s = round(time.monotonic() - over, 1)
    except (WorldError, StartFailed, TimeoutError, ClickHouseError, Retryable) as error:
        observation.failed = f"{type(error).__name__}: {error}"
    observation.seconds = round(time.monotonic() - begun, 1)
    return observation


# -- missing processes


def loader_away(stage: FaultStage, observation: Observation) -> None:
    """Kill a loader, and start it again once the fault shows."""
    loader = stage.world.loaders[0]
    loader.kill()
    watch = FaultWatch(stage, observation, unassigned)
    stage.let_flow()
    watch.until_seen()
    loader.start()


def clickhouse_away(stage: FaultStage, observation: Observation) -> None:
    """Kill ClickHouse, and start it again once the fault shows."""
    stage.world.clickhouse.kill()
    watch = FaultWatch(stage, observation)
    stage.let_flow()
    watch.until_seen()
    stage.world.start_clickhouse()


# -- ClickHouse


def disk_full(stage: FaultStage, observation: Observation) -> None:
    """Fill ClickHouse's disk, first so that nothing new starts and then entirely; free it later."""
    resize(stage.world.data, shutil.disk_usage(stage.world.data).used + UNRESERVABLE_BYTES)
    stage.world.sleep(MERGED_S)
    _fill_and_free(stage, observation)


def disk_full_at_once(stage: FaultStage, observation: Observation) -> None:
    """The disk is full from one moment to the next, while parts are merged.

    Not among the faults that are played unless it is asked for: chDB 26.9 commits a compact part whose last write meets the
    full disk, with empty files. The rows are unreadable until the engine starts again and takes back the parts before.
    """
    resize(stage.world.data, shutil.disk_usage(stage.world.data).used + SPARE_BYTES)
    _fill_and_free(stage, observation)


def _fill_and_free(stage: FaultStage, observation: Observation) -> None:
    world, filler = stage.world, stage.world.data / "filler"
    try:
        watch = FaultWatch(stage, observation)
        _fill(filler)
        stage.let_flow()
        watch.until_seen()
        # A loader that starts meanwhile waits too.
        world.loaders[0].kill()
        world.loaders[0].start()
        world.sleep(stage.scale.hold_s)
    finally:
        filler.unlink(missing_ok=True)
        resize(world.data, world.disk_bytes)


def _fill(file: Path) -> None:
    block = bytes(65_536)
    with file.open("wb", buffering=0) as out:
        try:
            while out.write(block):
                pass
        except OSError:  # as full as it gets
            return


def memory_full(stage: FaultStage, observation: Observation) -> None:
    """The engine's memory is full: a small bound, and queries that take what there is of it."""
    world = stage.world
    try:
        with analysts(world):
            for level in MEMORY_LEVELS:
                # An alarm about the restart, or one that went off again, is none about memory.
                observation.metric_s, observation.metric = None, ""
                if _seen_at(stage, observation, level):
                    break
            world.sleep(stage.scale.hold_s)
    finally:
        world.ensure_clickhouse(MEMORY_BYTES)


def _seen_at(stage: FaultStage, observation: Observation, level: int) -> bool:
    """Whether a memory limit is small enough to show; the need of the engine varies."""
    observation.note = f"{level // 1_000_000} MB"
    try:
        stage.world.restart_clickhouse(level)
    except StartFailed:
        observation.note += ", too few for a start"
    stage.let_flow(1 / len(MEMORY_LEVELS))
    stage.world.sleep(1.0)
    watch = FaultWatch(stage, observation)
    return watch.until_seen(LEVEL_S if level != MEMORY_LEVELS[-1] else SEEN_WITHIN_S)


def constraint(stage: FaultStage, observation: Observation) -> None:
    """Add a CHECK constraint that some events break, and drop it later."""
    store = stage.world.store
    store.command(f"ALTER TABLE {EVENTS} ADD CONSTRAINT bench CHECK value < 850")
    try:
        watch = FaultWatch(stage, observation)
        stage.let_flow()
        watch.until_seen()
        stage.world.sleep(stage.scale.hold_s)
    finally:
        store.command(f"ALTER TABLE {EVENTS} DROP CONSTRAINT bench")


def failing_materialized_view(stage: FaultStage, observation: Observation) -> None:
    """Create a materialised view that throws for some rows."""
    store = stage.world.store
    observation.must_show = VIEW_METRIC in LABELS
    if not observation.must_show:
        observation.note = f"this version has no {VIEW_METRIC}"
    store.command(
        "CREATE MATERIALIZED VIEW headwater.bench_view ENGINE = MergeTree ORDER BY tuple() AS "  # noqa: S608 - ours
        f"SELECT throwIf(value > 500) AS broken, event_id FROM {EVENTS}"
    )
    try:
        watch = FaultWatch(stage, observation, failing_view)
        stage.let_flow()
        watch.until_seen(SEEN_WITHIN_S if observation.must_show else stage.scale.hold_s)
        stage.world.sleep(stage.scale.hold_s)
    finally:
        store.command("DROP VIEW headwater.bench_view SYNC")


def heavy_queries(stage: FaultStage, observation: Observation) -> None:
    """Three analysts run heavy queries one after the other."""
    observation.must_show = False
    with analysts(stage.world) as counts:
        watch = FaultWatch(stage, observation)
        stage.let_flow()
        watch.until_seen(2 * stage.scale.hold_s)
        stage.world.wait(lambda: not stage.flow.behind, SETTLED_WITHIN_S, "the events are not sent")
        stage.world.wait_caught_up(SETTLED_WITHIN_S)
    observation.note = f"{counts['answered']} queries answered, {counts['failed']} refused"


@contextmanager
def analysts(world: FaultWorld) -> Iterator[dict[str, int]]:
    """Run heavy queries in threads, as other users than the loader."""
    counts, stopping = {"answered": 0, "failed": 0}, threading.Event()

    def ask(first: int) -> None:
        client = None
        number = first
        while not stopping.is_set():
            try:
                client = client or clickhouse_connect.get_client(
                    dsn=world.url, autogenerate_session_id=False, query_retries=0, send_receive_timeout=30
                )
                client.query(HEAVY[number % len(HEAVY)])
                counts["answered"] += 1
            except (ClickHouseError, OSError):
                counts["failed"] += 1
                stopping.wait(0.2)
            number += 1
        if client is not None:
            client.close()

    threads = [
        threading.Thread(target=ask, args=(number,), name=f"analyst-{number}", daemon=True) for number in range(ANALYSTS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        stopping.set()
        for thread in threads:
            thread.join(35)


def hang(stage: FaultStage, observation: Observation) -> None:
    """ClickHouse hangs for longer than a minute. A loader that is told to stop meanwhile ends within 10 s."""
    world, begun = stage.world, time.monotonic()
    loader = world.loaders[0]
    with stopped_process(world.clickhouse.pid):
        watch = FaultWatch(stage, observation)
        stage.let_flow()
        watch.until_seen()
        assert loader.child is not None
        loader.enabled = False
        terminated_at = time.monotonic()
        loader.child.terminate()
        while loader.running and time.monotonic() - terminated_at < 3 * STOPPED_WITHIN_S:
            time.sleep(0.05)
        took = time.monotonic() - terminated_at
        observation.note = f"SIGTERM obeyed after {took:.1f} s"
        if took > STOPPED_WITHIN_S:
            observation.failed = f"SIGTERM was not obeyed within {STOPPED_WITHIN_S:.0f} s"
        loader.child.stop(0)
        loader.start()
        world.sleep(max(0.0, stage.scale.hang_s - (time.monotonic() - begun)))


# -- Kafka


def kafka_anew(stage: FaultStage, observation: Observation) -> None:
    """Replace Kafka: topics of the same names have other ids and offsets from 0. Rows stay."""
    world = stage.world
    _prove_and_pause(stage)
    world.kafka.stop()
    watch = FaultWatch(stage, observation, unassigned)
    watch.until_seen()
    world.renew_kafka()
    stage.flow.resume()
    stage.let_flow()


def topic_anew(stage: FaultStage, observation: Observation) -> None:
    """Delete and create the topic again while the loader runs."""
    world = stage.world
    _prove_and_pause(stage)
    client: AdminClient = admin(world.settings)
    before = world.topic_id(TOPIC)
    ends = sum(loader.own_ends for loader in world.loaders)
    client.delete_topics([TOPIC])[TOPIC].result(30)
    world.wait(lambda: not world.topic_id(TOPIC), 30, "the topic is not deleted")
    world.wait(lambda: _applied(world), 30, "the topic cannot be made again")
    assert world.topic_id(TOPIC) != before
    # The loader recovers by itself, so nothing must show.
    observation.must_show = False
    stage.flow.resume()
    stage.let_flow()
    world.wait(lambda: not stage.flow.behind, SETTLED_WITHIN_S, "the events are not sent")
    world.wait_caught_up(SETTLED_WITHIN_S)
    observation.note = f"loaders ended and started again {sum(loader.own_ends for loader in world.loaders) - ends} times"


def _applied(world: FaultWorld) -> bool:
    try:
        topics_app.apply(world.settings)
    except Exception:  # Kafka may still be deleting; whatever stays wrong ends the wait above
        return False
    return bool(world.topic_id(TOPIC))


def _prove_and_pause(stage: FaultStage) -> None:
    """Load and prove everything first: unloaded records are lost with their topic."""
    stage.world.wait(lambda: not stage.flow.behind, SETTLED_WITHIN_S, "the events are not sent")
    stage.flow.pause()
    stage.world.wait_caught_up(SETTLED_WITHIN_S)
    stage.prover.prove_topic()


FAULTS: dict[str, Callable[[FaultStage, Observation], None]] = {
    "loader-away": loader_away,
    "clickhouse-away": clickhouse_away,
    "disk-full": disk_full,
    "memory-full": memory_full,
    "constraint": constraint,
    "failing-view": failing_materialized_view,
    "analysts": heavy_queries,
    "hang": hang,
    "kafka-anew": kafka_anew,
    "topic-anew": topic_anew,
}
ON_REQUEST: dict[str, Callable[[FaultStage, Observation], None]] = {"disk-full-at-once": disk_full_at_once}
DISK_FAULTS = ("disk-full", "disk-full-at-once")


def unplayable() -> dict[str, str]:
    """Faults that cannot be played here, and why."""
    reason = mountable()
    return dict.fromkeys(DISK_FAULTS, reason) if reason else {}


# -- kills


@dataclass
class Kills:
    """How many processes were killed, of which kind."""

    loader: int = 0
    clickhouse: int = 0

    @property
    def total(self) -> int:
        """All."""
        return self.loader + self.clickhouse


def kill_once(stage: FaultStage, kills: Kills, share: float) -> None:
    """Let events flow, and kill -9 a loader (two of three times) or ClickHouse at a random moment."""
    world, rng = stage.world, stage.random
    stage.let_flow(share)
    world.sleep(rng.uniform(*stage.scale.gap_s))
    # Kills are spread over the work: the next one waits until what is allowed has been sent.
    world.wait(lambda: not stage.flow.behind, SETTLED_WITHIN_S, "the events are not sent")
    world.sleep(rng.uniform(0.0, 1.2))
    running = [loader for loader in world.loaders if loader.running]
    if rng.random() < 2 / 3 and running:
        loader = rng.choice(running)
        loader.kill()
        loader.start()
        kills.loader += 1
    else:
        world.kill_clickhouse()
        kills.clickhouse += 1
