"""Translates consent states under former keys into signals for the names under the newest keys.

A refusal must survive a rotation of the keys. The signals go through `consent.signals` like any other, so the consent stage
records them. They may be sent again, because times in a state only grow.
"""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from infra.settings import Settings
from schemas.codec import decode, encode
from schemas.registry import Registry
from streams.consent.ledger.ledger_writes import SIGNALS, STATE, STATE_KIND
from streams.identity.nodes import NodeKeys
from streams.runtime.follow import read_topic

CHUNK = 5_000

Progress = Callable[[int], None]
"""Called with the number of states read since the last call."""


def translate_states(settings: Settings, folder: Path, now_ms: int, progress: Progress) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values for `consent.signals`. An index in `folder` keeps memory bounded. Retryable."""
    keys, contract = NodeKeys.of(settings), Registry(settings.contracts).latest(SIGNALS)
    with sqlite3.connect(folder / "states.sqlite3", isolation_level=None) as db:
        _index_states(settings, keys, db, progress)
        # A subject whose name is the newer name of another one is up to date.
        rows = db.execute("SELECT newer, state FROM states WHERE subject NOT IN (SELECT newer FROM states)")
        while chunk := rows.fetchmany(CHUNK):
            for newer, state in chunk:
                yield newer.encode(), encode(contract, signal_record(orjson.loads(state), newer, now_ms))


def _index_states(settings: Settings, keys: NodeKeys, db: sqlite3.Connection, progress: Progress) -> None:
    """Read all present states into the index."""
    registry = Registry(settings.contracts)
    db.execute("PRAGMA journal_mode = OFF")
    db.execute("CREATE TABLE states (key BLOB PRIMARY KEY, subject TEXT, newer TEXT, state BLOB) WITHOUT ROWID")
    db.execute("CREATE INDEX names ON states (newer)")
    for records in read_topic(settings, STATE):
        db.execute("BEGIN")
        for key, value in records:
            if value is None:  # the subject was erased
                db.execute("DELETE FROM states WHERE key = ?", (key,))
                continue
            state = decode(registry, value)[1]
            row = (key, state["subject"], keys.newer(state["subject"]), orjson.dumps(state))
            db.execute("INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)", row)
        db.execute("COMMIT")
        progress(len(records))


def signal_record(state: dict[str, Any], subject: str, now_ms: int) -> dict[str, Any]:
    """The record of `consent.signals` that gives another subject the same state."""
    return {
        "subject": subject, "site": state["site"], "regulation": state["regulation"], "kind": STATE_KIND,
        "signals": {name: str(time) for name, time in state["times"].items()}, "purposes": [], "chosen_ts": now_ms,
        "received_ts": now_ms, "via": "linked", "evidence": state["evidence"],
    }  # fmt: skip
