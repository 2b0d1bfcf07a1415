"""Folders of the processes' spools: locks, and what is taken over."""

from pathlib import Path

import pytest

from infra.errors import ConfigError
from infra.payload_keyring import PayloadKeyring
from infra.secrets import Secret
from streams.collector.delivery import spool_folders
from streams.collector.delivery.spool import Spool, SpoolRecord
from streams.collector.delivery.spool_folders import claim_spool

SECRET = Secret("for tests only, forty characters long...")


def fill(state: Path, number: int, processes: int, *values: bytes) -> None:
    """Leave records in the spool of a process that has ended."""
    folder = claim_spool(state, number, processes)
    spool = Spool(folder.path, PayloadKeyring(state / "keyring", SECRET), 10_000_000)
    for value in values:
        spool.append([SpoolRecord("events.raw", b"k", value)], 1.0)
        spool.close()
    folder.release()


def values(folder: Path) -> list[bytes]:
    """Values in the spool of a folder, in their order."""
    spool = Spool(folder, PayloadKeyring(folder.parent / "keyring", SECRET), 10_000_000)
    read_values = []
    while not spool.empty:
        file, records = spool.open_oldest()
        read_values += [record.value for record in records]
        spool.drop(file)
    return read_values


def test_the_first_process_takes_over_what_numbers_that_do_not_run_have_left(tmp_path: Path) -> None:
    """Behind its own records, each folder in order; the other processes keep theirs."""
    fill(tmp_path, 0, 1, b"single")
    fill(tmp_path, 0, 4, b"zero-a", b"zero-b")
    fill(tmp_path, 1, 4, b"one")
    fill(tmp_path, 3, 4, b"three-a", b"three-b")
    fill(tmp_path, 0, 1)
    assert values(tmp_path / "spool") == [b"single", b"zero-a", b"zero-b", b"one", b"three-a", b"three-b"]
    fill(tmp_path, 1, 2, b"kept")
    fill(tmp_path, 0, 2)
    assert (values(tmp_path / "spool-0"), values(tmp_path / "spool-1")) == ([], [b"kept"])


def test_a_spool_in_use_is_neither_taken_over_nor_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process still appends to it."""
    monkeypatch.setattr(spool_folders, "LOCK_S", 0.0)
    fill(tmp_path, 1, 2, b"one")
    running = claim_spool(tmp_path, 1, 2)
    fill(tmp_path, 0, 1)
    assert values(tmp_path / "spool") == []
    with pytest.raises(ConfigError, match="another collector uses the spool"):
        claim_spool(tmp_path, 1, 2)
    running.release()
    fill(tmp_path, 0, 1)
    assert values(tmp_path / "spool") == [b"one"]
