"""A ClickHouse with the warehouse's tables and without Kafka: slots and events in, today's identity and its reference out."""

import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import psutil

from consumers.warehouse.schema.migrating import migrate
from consumers.warehouse.store import Store
from infra.ops.embedded.servers.clickhouse import EmbeddedClickHouse
from infra.settings import load_settings

NOW_MS = int(time.time() * 1000)
DAY_MS = 86_400_000
TABLES = ("events", "identity_merges", "identity_stamped", "identity_overrides", "identity_runs")


class Slot(NamedTuple):
    """One record of identity.merges."""

    node: str
    parent: str
    epoch: int = 0
    state: str = ""


def node(tier: int, number: int) -> str:
    """A node; within a tier the smaller number is the smaller node."""
    return f"{tier}{number:032x}"


def reference(slots: Iterable[Slot], profile: str) -> str:
    """The profile that a stamped profile belongs to today, followed step by step."""
    newest: dict[str, Slot] = {}
    for slot in slots:
        if slot.node not in newest or slot.epoch > newest[slot.node].epoch:
            newest[slot.node] = slot
    at = profile
    while (current := newest.get(at)) is not None:
        if current.state == "erased":
            return profile
        if at[0] == "0" and (current.parent[0] != "0" or current.parent == at):
            return current.parent
        if current.parent == at:
            return at
        at = current.parent
    return at


class History:
    """The tables, filled by statements."""

    def __init__(self, server: EmbeddedClickHouse, folder: Path) -> None:
        self.server = server
        self.settings = load_settings(clickhouse=server.loader_url, state_dir=folder)
        migrate(self.settings)
        self.store = Store(self.settings)
        self.offset = 0

    def empty(self) -> None:
        """Empty the tables."""
        for table in TABLES:
            self.store.command(f"TRUNCATE TABLE headwater.{table}")

    def merge(self, *slots: Slot, days_ago: float = 0) -> None:
        """Insert records of identity.merges."""
        at = f"fromUnixTimestamp64Milli({NOW_MS - int(days_ago * DAY_MS)})"
        rows = ", ".join(f"('{s.node}', '{s.parent}', {s.epoch}, '{s.state}', 'event', {at})" for s in slots)
        columns = "node, parent, epoch, state, event_id, evidence_ts"
        self.store.command(f"INSERT INTO headwater.identity_merges ({columns}) VALUES {rows}")

    def stamp(self, *profiles: str, days_ago: float = 0) -> None:
        """Insert an event for each profile."""
        at = NOW_MS - int(days_ago * DAY_MS)
        rows = []
        for profile in profiles:
            self.offset += 1
            rows.append(f"('{profile}', '{profile}', fromUnixTimestamp64Milli({at}), 0, {self.offset})")
        columns = "profile_id, node, collector_ts, _partition, _offset"
        self.store.command(f"INSERT INTO headwater.events ({columns}) VALUES {', '.join(rows)}")

    def overrides(self) -> dict[str, str]:
        """Overrides by profile id."""
        return dict(self.store.rows("SELECT profile_id, canonical FROM headwater.identity_overrides"))

    def now(self) -> Counter[tuple[str, str]]:
        """(stamped, today's) -> rows of the view."""
        query = "SELECT profile_id, profile_now, count() FROM headwater.events_now GROUP BY ALL"
        return Counter({(stamped, today): rows for stamped, today, rows in self.store.rows(query)})

    def leftovers(self) -> list[str]:
        """Work tables that still exist."""
        query = "SELECT name FROM system.tables WHERE database = 'headwater' AND startsWith(name, 'identity_work_')"
        return [name for (name,) in self.store.rows(query)]

    def kill(self) -> None:
        """Kill the server with SIGKILL, and start one over its folder."""
        server = psutil.Process(self.server.pid)
        server.kill()
        server.wait(10)
        self.server.start()
