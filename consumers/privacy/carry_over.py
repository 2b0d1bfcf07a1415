"""What is remembered of subjects under the former version of the keys, said again of what they are called under the newest.

A refusal must outlive a rotation of the keys: who withdrew is withdrawn under the new name too. It is said by
`consent.signals`, so the gate takes it down like anything else, and it may be said again: times only grow.
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

AT_ONCE = 5_000

Progress = Callable[[int], None]
"""Told how many more states were read."""


def translate_states(settings: Settings, folder: Path, now_ms: int, progress: Progress) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values for `consent.signals`. `folder`: for an index, so that memory stays bounded. Retryable."""
    keys, contract = NodeKeys.of(settings), Registry(settings.contracts).latest(SIGNALS)
    with sqlite3.connect(folder / "states.sqlite3", isolation_level=None) as db:
        _read(settings, keys, db, progress)
        # Who is called what another one becomes is called so already.
        rows = db.execute("SELECT newer, state FROM states WHERE subject NOT IN (SELECT newer FROM states)")
        while some := rows.fetchmany(AT_ONCE):
            for newer, state in some:
                yield newer.encode(), encode(contract, signal(orjson.loads(state), newer, now_ms))


def _read(settings: Settings, keys: NodeKeys, db: sqlite3.Connection, progress: Progress) -> None:
    """All states that stand, into the index."""
    registry = Registry(settings.contracts)
    db.execute("PRAGMA journal_mode = OFF")
    db.execute("CREATE TABLE states (key BLOB PRIMARY KEY, subject TEXT, newer TEXT, state BLOB) WITHOUT ROWID")
    db.execute("CREATE INDEX names ON states (newer)")
    for records in read_topic(settings, STATE):
        db.execute("BEGIN")
        for key, value in records:
            if value is None:  # she was erased
                db.execute("DELETE FROM states WHERE key = ?", (key,))
                continue
            state = decode(registry, value)[1]
            row = (key, state["subject"], keys.newer(state["subject"]), orjson.dumps(state))
            db.execute("INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)", row)
        db.execute("COMMIT")
        progress(len(records))


def signal(state: dict[str, Any], subject: str, now_ms: int) -> dict[str, Any]:
    """The record of `consent.signals` that teaches the gate the same state of another subject."""
    return {
        "subject": subject, "site": state["site"], "regulation": state["regulation"], "kind": STATE_KIND,
        "signals": {name: str(time) for name, time in state["times"].items()}, "purposes": [], "chosen_ts": now_ms,
        "received_ts": now_ms, "via": "linked", "evidence": state["evidence"],
    }  # fmt: skip
