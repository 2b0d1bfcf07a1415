"""A small run of bench/warehouse_faults: each fault once, some kills, and negative controls that must lose or double."""

from pathlib import Path

import pytest

from bench.faults.controls import CONTROLS, prove
from bench.faults.faults import FAULTS, STOPPED_WITHIN_S, unplayable
from bench.faults.run import FaultPlan, FaultResult, run
from tests.support.scale import FULL

SEED = 17
EVENTS, KILLS = (24_000, 6) if FULL else (12_000, 3)
PLAN = FaultPlan(EVENTS, KILLS, seed=SEED, hold_s=0.5, hang_s=17.0, gap_s=(0.2, 0.6))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> FaultResult:
    """One run for all tests, because servers take long to start."""
    return run(PLAN, tmp_path_factory.mktemp("faults"))


def test_every_event_has_its_one_row_whatever_fails(result: FaultResult) -> None:
    """Nothing is missing, doubled, different, aborted or dead, by offset, by event id and by content."""
    proof = result.proof
    assert proof.exact, proof
    assert proof.events + proof.events_aborted >= PLAN.events
    assert proof.rows == proof.records == proof.events
    assert proof.events_aborted > PLAN.events / 20, "aborted transactions were between the others"
    assert result.kills.total == PLAN.kills


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen_and_gets_over(result: FaultResult, fault: str) -> None:
    """A metric and `headwater doctor` show it within a minute, and no alarm stays afterwards."""
    if reason := unplayable().get(fault):
        pytest.skip(reason)
    (observation,) = (observation for observation in result.observations if observation.fault == fault)
    assert observation.passed, observation


def test_a_loader_that_waits_for_a_hanging_server_can_be_stopped(result: FaultResult) -> None:
    """SIGTERM while ClickHouse hangs ends the loader within 10 s."""
    (hang,) = (observation for observation in result.observations if observation.fault == "hang")
    assert "SIGTERM obeyed" in hang.note, hang
    assert float(hang.note.split()[-2]) <= STOPPED_WITHIN_S


def test_an_endpoint_that_swallows_failures_loses_rows_without_the_count(tmp_path: Path) -> None:
    """The old insert path with a loader that does not count loses the rows that a constraint refused."""
    control = CONTROLS["old-insert"]
    proof, _ = prove(control, control.loader, tmp_path / "control", SEED, rounds=1)
    assert proof.missing == proof.ids_missing > 0
    assert not proof.exact


def test_commits_without_intents_double_rows(tmp_path: Path) -> None:
    """A loader killed before its commit inserts the same rows again in other batches."""
    control = CONTROLS["no-intent"]
    proof, aimed = prove(control, control.loader, tmp_path / "control", SEED, rounds=2)
    assert proof.duplicates == proof.ids_doubled > 0, aimed
    assert not proof.exact
