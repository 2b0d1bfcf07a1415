"""The spool keeps records in order, over crashes, encrypted and bounded."""

import resource
from pathlib import Path

import pytest

from infra.payload_keyring import PayloadKeyring
from infra.secrets import Secret
from streams.collector.delivery.spool import SEGMENT_BYTES, Spool, SpoolFull, SpoolRecord

NOW = 1_795_514_401.0
RECORDS = [SpoolRecord("events.raw", b"k%d" % i, b"value %d" % i) for i in range(5)]


def keyring(folder: Path) -> PayloadKeyring:
    """Return the key ring of all spools of a test."""
    return PayloadKeyring(folder / "keys", Secret("for tests only, forty characters long..."))


def drained(spool: Spool) -> list[SpoolRecord]:
    """Drain a spool and return its records, oldest first."""
    spooled: list[SpoolRecord] = []
    while not spool.empty:
        file, records = spool.open_oldest()
        spooled += records
        spool.drop(file)
    return spooled


def test_a_crash_keeps_acknowledged_records(tmp_path: Path) -> None:
    """A new spool over the same folder has the records in order; on disk they are not readable."""
    spool = Spool(tmp_path / "spool", keyring(tmp_path), 10_000_000)
    spool.append(RECORDS[:3], NOW)
    spool.append(RECORDS[3:], NOW)
    on_disk = b"".join(file.read_bytes() for file in (tmp_path / "spool").glob("*.spool"))
    assert b"value" not in on_disk
    again = Spool(tmp_path / "spool", keyring(tmp_path), 10_000_000)
    assert again.bytes == len(on_disk)
    assert drained(again) == RECORDS
    assert again.bytes == 0


def test_a_record_cut_off_by_a_crash_is_passed_over(tmp_path: Path) -> None:
    """A truncated record was never acknowledged; the records before it are complete."""
    spool = Spool(tmp_path / "spool", keyring(tmp_path), 10_000_000)
    spool.append(RECORDS, NOW)
    (file,) = (tmp_path / "spool").glob("*.spool")
    file.write_bytes(file.read_bytes()[:-3])
    assert drained(Spool(tmp_path / "spool", keyring(tmp_path), 10_000_000)) == RECORDS[:-1]


def test_a_changed_record_is_passed_over_and_the_next_one_read(tmp_path: Path) -> None:
    """A damaged block loses its record only."""
    spool = Spool(tmp_path / "spool", keyring(tmp_path), 10_000_000)
    spool.append(RECORDS, NOW)
    (file,) = (tmp_path / "spool").glob("*.spool")
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    file.write_bytes(bytes(data))
    assert drained(Spool(tmp_path / "spool", keyring(tmp_path), 10_000_000)) == RECORDS[1:]


def test_a_full_spool_takes_nothing(tmp_path: Path) -> None:
    """A request is written as a whole or not at all."""
    spool = Spool(tmp_path / "spool", keyring(tmp_path), 2_000)
    spool.append(RECORDS, NOW)
    before = spool.bytes
    with pytest.raises(SpoolFull):
        spool.append([SpoolRecord("events.raw", b"k", b"x" * 2_000)], NOW)
    assert spool.bytes == before
    assert drained(spool) == RECORDS


def test_a_full_disk_loses_no_acknowledged_record(tmp_path: Path) -> None:
    """What a failed write left behind is removed, so that records before and after it can be read."""
    spool = Spool(tmp_path / "spool", keyring(tmp_path), 10_000_000)
    spool.append(RECORDS[:2], NOW)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (spool.bytes + 1_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            spool.append([SpoolRecord("events.raw", b"k", b"x" * 5_000)], NOW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    spool.append(RECORDS[2:], NOW)
    again = Spool(tmp_path / "spool", keyring(tmp_path), 10_000_000)
    assert again.bytes == spool.bytes
    assert drained(again) == RECORDS


def test_it_goes_on_in_a_new_segment_while_the_old_one_drains(tmp_path: Path) -> None:
    """Records that are appended during a drain go to the next segment."""
    spool = Spool(tmp_path / "spool", keyring(tmp_path), 10 * SEGMENT_BYTES)
    spool.append(RECORDS[:2], NOW)
    file, records = spool.open_oldest()
    spool.append(RECORDS[2:], NOW)
    assert list(records) == RECORDS[:2]
    spool.drop(file)
    assert drained(spool) == RECORDS[2:]
