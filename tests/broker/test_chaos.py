"""The runtime under attack: nothing lost, nothing doubled, order kept."""

import time
from pathlib import Path

from tests.broker.chaos import Chaos
from tests.broker.copying import Copying

RECORDS = 60_000
FAULTS = 30


def test_kills_stops_and_twins_neither_lose_nor_double(kafka: str, tmp_path: Path) -> None:
    """Read committed, the copy equals the source after kills, stops around the session timeout, and twins in one slot."""
    settings = {"session_timeout_s": 3, "transaction_timeout_s": 10, "batch_records": 300}
    copying = Copying(kafka, tmp_path, settings=settings, options={"sleep_s": 0.02})
    copying.fill(RECORDS)
    try:
        chaos = Chaos(copying.start, seed=20)
        chaos.attack(FAULTS)
        chaos.calm()
        deadline = time.monotonic() + 90
        while copying.lag(RECORDS) and time.monotonic() < deadline:
            chaos.revive()
            time.sleep(0.5)
    finally:
        copying.stop()
    counted = copying.counted(RECORDS)
    print(chaos.faults, chaos.exits)  # noqa: T201 - shown by pytest when the test fails
    assert (counted.lost, counted.doubled, counted.out_of_order) == (0, 0, 0)
    assert chaos.faults["kill"] + chaos.faults["stop"] >= FAULTS
    assert chaos.faults["twin"] > 0
