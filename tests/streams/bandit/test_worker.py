"""The bandit's workers on a real broker and a real Redis: totals equal a recount, also when workers are killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Self
from uuid import UUID

import confluent_kafka as ck
import pytest
import redis
from typer.testing import CliRunner

from infra.clients.kafka import admin, producer
from infra.clients.topic_ids import topic_ids
from infra.ops import topics as topics_app
from infra.settings import Settings, load_settings
from schemas.codec import encode
from schemas.registry import Registry
from streams.bandit.commands.experiments import (
    EXAMPLE,
    app,
    load_experiments,
    load_snapshot,
    load_statistics,
    publish_experiment,
)
from streams.bandit.experiment import parse
from streams.bandit.snapshots.store import pointer_key
from streams.bandit.token import DecisionRef, sign
from tests.support.scale import FULL

UNITS = 3_000 if FULL else 1_200
T0 = 1_795_000_000_000
MAIN = "from infra.ops.cli import main; main()"


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment of a command for this installation."""
    return {
        **os.environ,
        "HEADWATER_KAFKA": settings.kafka,
        "HEADWATER_REDIS": settings.redis,
        "HEADWATER_STATE_DIR": str(settings.state_dir),
        "HEADWATER_SECRET": "s" * 32,
    }


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Poll until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.1)


@pytest.fixture
def settings(kafka: str, redis_url: str, tmp_path: Path) -> Settings:
    """An installation of its own on the shared broker."""
    installation = load_settings(kafka=kafka, redis=redis_url, state_dir=tmp_path, secret="s" * 32, partitions=4)
    topics_app.apply(installation)
    return installation


@pytest.fixture
def worker(settings: Settings) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts workers of the bandit, and kills them at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(slot: str, *words: str) -> subprocess.Popen[bytes]:
        first = ["--from", "earliest"] if not started else []
        command = [sys.executable, "-c", MAIN, "worker", "bandit", "--slot", slot, *first, *words]
        started.append(subprocess.Popen(command, env=environment(settings)))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait(10)


def send(settings: Settings, units: range) -> None:
    """Send each view twice, and twice a purchase of every fourth `bold` and every tenth other, on several partitions."""
    contract, key = Registry(settings.contracts).latest("events.resolved"), settings.master.derive("decision-token")
    client = producer(settings)
    for unit in units:
        arm = ("calm", "bold", "seasonal")[unit % 3]
        ref = DecisionRef(str(UUID(int=unit)), "hero-banner", 1, arm, "bandit", 1 / 3, T0)
        buys = unit % 12 == 4 if arm == "bold" else unit % 30 == 0
        for n, name in enumerate(["widget_viewed"] * 2 + ["purchase"] * 2 * buys):
            record = {
                "profile_id": "", "node": "", "identity_state": "resolved", "consent_outcome": "pass", "consent_purposes": 7,
                "consent_reasons": "", "consent_policy": "", "consent_evidence": "", "event_id": f"{unit}-{n}",
                "event_name": name, "source": "web-de", "site": "", "heartbeat": False, "collector_ts": T0 + 9, "region": "",
                "signals": {}, "identifiers": [], "decision_token": sign(key, ref), "event_ts": T0 + 5,
                "event_ts_source": "device", "protocol": "headwater",
            }  # fmt: skip
            client.produce("events.resolved", encode(contract, record), b"k", partition=(unit + n) % 4)
            client.poll(0)
    assert client.flush(30) == 0


def recount(units: range) -> dict[str, tuple[int, int]]:
    """Return arm -> (exposures, conversions) as sent."""
    arms = {"calm": [u for u in units if u % 3 == 0], "bold": [u for u in units if u % 3 == 1], "seasonal": []}
    arms["seasonal"] = [u for u in units if u % 3 == 2]
    bought = {arm: sum(u % 12 == 4 if arm == "bold" else u % 30 == 0 for u in decided) for arm, decided in arms.items()}
    return {arm: (len(decided), bought[arm]) for arm, decided in arms.items()}


def counted(settings: Settings) -> dict[str, tuple[int, int]]:
    """Return arm -> (exposures, conversions) as counted."""
    totals = load_statistics(settings).totals("hero-banner", 1, "bandit")
    return {arm: (int(sums.exposures), int(sums.conversions)) for arm, sums in totals.items()}


def counted_since(settings: Settings, before: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Return arm -> (exposures, conversions) counted since `before`."""
    now, nothing = counted(settings), (0, 0)
    pairs = {arm: (now.get(arm, nothing), before.get(arm, nothing)) for arm in ("calm", "bold", "seasonal")}
    return {arm: (new[0] - old[0], new[1] - old[1]) for arm, (new, old) in pairs.items()}


def workers_with_partitions(settings: Settings) -> int:
    """Return how many members of the bandit's group hold partitions."""
    client, group = admin(settings), "headwater.bandit"
    try:
        description = client.describe_consumer_groups([group], request_timeout=20)[group].result(20)
    except ck.KafkaException:
        return 0  # the group does not exist yet
    return sum(bool(member.assignment.topic_partitions) for member in description.members)


class Load:
    """Sends the events of 300 new decisions a second within a `with` statement."""

    def __init__(self, settings: Settings, first: int) -> None:
        self.decisions = range(first, first)
        """Those whose events Kafka has acknowledged."""
        self._settings = settings
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        self._sending = self._thread.submit(self._run)
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._sending.result(60)
        self._thread.shutdown()

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            end = self.decisions.stop
            send(self._settings, range(end, end + 60))
            self.decisions = range(self.decisions.start, end + 60)


def test_totals_equal_a_recount_although_the_worker_is_killed(
    settings: Settings, worker: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    """Each decision counts once despite doubled events on all partitions and a kill; the better arm is in Redis."""
    experiment = publish_experiment(settings, parse(EXAMPLE.read_bytes()).model_copy(update={"publish_s": 1}))
    assert [experiment.key for experiment in load_experiments(settings)] == ["hero-banner"]
    process = worker("0")
    wait_until(lambda: load_snapshot(settings, "hero-banner") is not None)
    send(settings, range(UNITS // 2))
    wait_until(lambda: sum(exposures for exposures, _ in counted(settings).values()) > UNITS // 10)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    worker("0")
    send(settings, range(UNITS // 2, UNITS))
    deadline = time.monotonic() + 60
    while counted(settings) != recount(range(UNITS)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert counted(settings) == recount(range(UNITS))
    with redis.Redis.from_url(settings.redis) as client:

        def learned() -> bool:
            snapshot = load_snapshot(settings, experiment.key)
            assert snapshot is not None
            moved = snapshot.weights()["bold"] > 0.7
            return moved and int(client.get(pointer_key(experiment.key)) or 0) == snapshot.version

        wait_until(learned)
    assert counted(settings) == recount(range(UNITS))
    report = json.loads(shown(settings, "show", experiment.key, "--json"))
    assert report["statistics"]["bandit"]["bold"]["exposures"] == UNITS // 3
    assert "bold" in shown(settings, "show", experiment.key)
    assert json.loads(shown(settings, "mode", experiment.key, "freeze", "--json"))["mode"] == "freeze"
    assert "freeze" in shown(settings, "list")


def test_totals_continue_when_the_topic_of_outcomes_is_recreated(
    settings: Settings, worker: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """Counting continues although the offsets of a recreated topic begin at 0, below those in the statistics."""
    publish_experiment(settings, parse(EXAMPLE.read_bytes()).model_copy(update={"publish_s": 1}))
    before = counted(settings)

    def added() -> dict[str, tuple[int, int]]:
        return counted_since(settings, before)

    old, new = range(12_000, 12_600), range(12_600, 12_660)
    process = worker("0")
    send(settings, old)
    wait_until(lambda: added() == recount(old))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    client = admin(settings)
    client.delete_topics(["bandit.outcomes"])["bandit.outcomes"].result(20)
    wait_until(lambda: not topic_ids(settings, ["bandit.outcomes"]))
    topics_app.apply(settings)
    worker("0", "--from", "earliest")
    send(settings, new)
    wait_until(lambda: added() == recount(range(12_000, 12_660)))


def test_totals_are_exact_while_a_second_worker_joins_leaves_and_dies(
    settings: Settings, worker: Callable[[str], subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partitions move four times under load, the last time without a commit: each decision still counts exactly once."""
    monkeypatch.setenv("HEADWATER_SESSION_TIMEOUT_S", "3")
    publish_experiment(settings, parse(EXAMPLE.read_bytes()).model_copy(update={"publish_s": 1}))
    before = counted(settings)
    worker("0")

    def counted_more_than(decisions: int) -> bool:
        return sum(exposures for exposures, _ in counted_since(settings, before).values()) > decisions

    with Load(settings, 50_000) as load:
        wait_until(lambda: workers_with_partitions(settings) == 1)
        for number in (signal.SIGTERM, signal.SIGKILL):
            second = worker("1")
            wait_until(lambda: workers_with_partitions(settings) == 2)
            # Every decision that is sent from now on is counted by either of two workers.
            wait_until(partial(counted_more_than, len(load.decisions) + 300))
            second.send_signal(number)
            second.wait(30)
            wait_until(lambda: workers_with_partitions(settings) == 1)
    wait_until(lambda: counted_since(settings, before) == recount(load.decisions))


def shown(settings: Settings, *words: str) -> str:
    """Return the output of `headwater experiments`."""
    run = CliRunner().invoke(app, words, env=environment(settings))
    assert run.exit_code == 0, run.output
    return run.stdout
