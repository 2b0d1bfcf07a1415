"""Ids and markers can be found in raw bytes."""

import random
import uuid

from infra.ops.simulator.marks import MarkerScan, event_id, event_number, marker, run_id


def test_event_ids_are_uuids_that_lead_back_to_their_number() -> None:
    """Snowplow takes only UUIDs, and reconcile needs the number."""
    run = run_id(random.Random(3))
    for n in (0, 1, 255, 1_000_000):
        identifier = event_id(run, n)
        assert str(uuid.UUID(identifier)) == identifier
        assert event_number(run, identifier) == n


def test_ids_of_other_runs_and_other_forms_are_nobodys() -> None:
    """Several runs share a house."""
    assert event_number("aaaaaaaa", event_id("bbbbbbbb", 1)) is None
    assert event_number("aaaaaaaa", "aaaaaaaa") is None
    assert event_number("aaaaaaaa", "aaaaaaaa-0000-4000-8000-00000000zzzz") is None


def test_markers_are_found_in_any_bytes_and_hold_no_digit() -> None:
    """A marker that looks like a telephone number would be masked at the door."""
    mark = marker("mk", "abcdefab", 0xBEEF)
    assert not any(letter.isdigit() for letter in mark)
    marks = MarkerScan("abcdefab").find(b"\x00\x07url?gclid=" + mark.encode() + b"&x=" + marker("an", "abcdefab", 2).encode())
    assert marks == {("mk", 0xBEEF), ("an", 2)}
    assert MarkerScan("ffffffff").find(mark.encode()) == set()
