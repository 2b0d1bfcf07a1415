"""Finds the ids that recent events name, and removes the links of inactive nodes from `identity_merges`."""

import json
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from consumers.warehouse.erasing import quote_ids, remove_rows
from consumers.warehouse.history.flatten import WORK, workbench
from consumers.warehouse.history.overrides import next_version
from consumers.warehouse.schema import ddl
from consumers.warehouse.store import Store
from infra.errors import ConfigError

CHUNK = 5_000
SLACK = 0.1
"""Share of the period: the oldest event may be younger by this, because not every day has an event."""

# A profile that any row carries is in use, however old the row: its id must not become the profile of another person.
ACTIVE_IDS = """
SELECT id FROM (
    SELECT arrayJoin(arrayPushBack(identifiers, node)) AS id FROM {database}.events
    WHERE collector_ts >= fromUnixTimestamp64Milli(toInt64({since_ms}))
    UNION ALL SELECT profile_id AS id FROM {database}.events
    UNION ALL SELECT arrayJoin([profile_id, canonical]) AS id FROM {database}.identity_overrides
)
GROUP BY id SETTINGS max_bytes_before_external_group_by = 200000000
"""


def active_ids(store: Store, since_ms: int) -> Iterator[list[str]]:
    """Yield, in chunks, every id that events since `since_ms` name and every profile that any event carries.

    ConfigError where the events do not go back that far. Retryable.
    """
    database = ddl.quoted(store.database)
    ((n, oldest_ms),) = store.rows(f"SELECT count(), toUnixTimestamp64Milli(min(collector_ts)) FROM {database}.events")  # noqa: S608 - ours
    if not n or oldest_ms > since_ms + SLACK * (time.time() * 1000 - since_ms):
        raise ConfigError(
            f"the warehouse holds no event from around {datetime.fromtimestamp(since_ms / 1000, UTC):%Y-%m-%d}, so who was not "
            "seen since then cannot be told: choose fewer --days, or restore its events first"
        )
    chunk: list[str] = []
    for line in store.stream_json(ACTIVE_IDS.format(database=database, since_ms=since_ms)):
        chunk.append(json.loads(line)["id"])
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    yield chunk


def forget_links(store: Store, request_id: str, nodes: Sequence[str], before_ms: int) -> int:
    """Remove links of these nodes from before `before_ms`, for replays too; return the number of rows. Retryable."""
    with workbench(store, next_version(store, int(time.time() * 1000))) as bench:
        table = bench.full_name("forgotten")
        bench.execute(WORK, table=table, columns="node String")
        for start in range(0, len(nodes), CHUNK):
            rows = ", ".join(f"({quoted_node})" for quoted_node in quote_ids(nodes[start : start + CHUNK]))
            store.long_command(f"INSERT INTO {table} VALUES {rows}")  # noqa: S608 - checked ids
        before = f"fromUnixTimestamp64Milli(toInt64({before_ms}))"
        condition = f"node IN (SELECT node FROM {table}) AND evidence_ts < {before}"  # noqa: S608 - a name of our own
        return remove_rows(store, request_id, {"identity_merges": condition})["identity_merges"]
