"""A worker that lost its partitions cannot emit for them: shown with each safeguard, and with it removed."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.errors import EXIT_FENCED
from tests.broker.copying import Copying

RECORDS = 2_000
PATIENCE_S = 60
"""For what takes a second or two on a machine that is not busy."""


@pytest.fixture
def copying(kafka: str, tmp_path: Path) -> Iterator[Copying]:
    """Records that workers copy whose first batch waits at a gate."""
    copying = Copying(kafka, tmp_path, settings={"transaction_timeout_s": 30, "session_timeout_s": 3})
    copying.fill(RECORDS)
    yield copying
    copying.stop()


def start_gated(copying: Copying, slot: str, consumer: str) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a worker, wait until it is in its first batch, and return it with its gate."""
    gate = copying.folder / f"gate-{slot}"
    copying.module = "tests.broker.gated"
    worker = copying.start(slot, gate=str(gate), consumer=f"tests.broker.gated:{consumer}")
    copying.module = "bench.passthrough"
    wait_until(gate.with_suffix(".waiting").exists, PATIENCE_S)
    return worker, gate


def wait_until(condition: object, seconds: float) -> None:
    """Poll a condition until it holds."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.05)


def run_zombie(copying: Copying, consumer: str) -> subprocess.Popen[bytes]:
    """Stop a worker in mid-batch until another one has taken over and finished; then let it go on to its commit."""
    zombie, gate = start_gated(copying, "0", consumer)
    zombie.send_signal(signal.SIGSTOP)
    copying.start("1")
    assert copying.drained(RECORDS, 25), copying.log("1")
    gate.touch()
    zombie.send_signal(signal.SIGCONT)
    return zombie


def test_a_zombies_commit_is_fenced(copying: Copying) -> None:
    """The broker refuses the commit of an older generation, and its records are never visible."""
    zombie = run_zombie(copying, "Zombie")
    assert zombie.wait(PATIENCE_S) == EXIT_FENCED
    assert "commit refused" in copying.log("0")
    counted = copying.counted(RECORDS)
    assert (counted.lost, counted.doubled, counted.out_of_order) == (0, 0, 0)


def test_without_the_generation_a_zombie_doubles(copying: Copying) -> None:
    """The same run with a commit without generation doubles records, so the fence is what protects."""
    zombie = run_zombie(copying, "ZombieWithoutGeneration")
    wait_until(lambda: copying.counted(RECORDS).doubled > 0 or zombie.poll() is not None, PATIENCE_S)
    assert copying.counted(RECORDS).doubled > 0, copying.log("0")


def run_revoked_in_mid_batch(copying: Copying, consumer: str) -> None:
    """Let a second worker join while the first is in mid-batch, and end that batch after the second has finished."""
    copying.settings["session_timeout_s"] = 15  # nobody is to be lost here, however busy the machine is
    first, gate = start_gated(copying, "0", consumer)
    copying.start("1")
    # Both partitions that went over are copied by the second worker; the first still sits in its batch.
    wait_until(lambda: copying.lag(RECORDS) <= RECORDS // 2, PATIENCE_S)
    gate.touch()
    assert copying.drained(RECORDS, PATIENCE_S), copying.log("0") + copying.log("1")
    first.terminate()
    first.wait(PATIENCE_S)


def test_a_batch_that_returns_after_its_revocation_emits_nothing(copying: Copying) -> None:
    """A revocation commits and withdraws the lease in one step."""
    run_revoked_in_mid_batch(copying, "Consumer")
    counted = copying.counted(RECORDS)
    assert (counted.lost, counted.doubled, counted.out_of_order) == (0, 0, 0)


def test_without_the_lease_it_doubles(copying: Copying) -> None:
    """The same run with valid leases doubles records: the new generation's commit fences nothing."""
    run_revoked_in_mid_batch(copying, "WithoutLease")
    assert copying.counted(RECORDS).doubled > 0
