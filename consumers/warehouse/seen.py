"""Which ids past events name: who is in none of them was not seen for as long as events are kept."""

from collections.abc import Iterator
from datetime import UTC, datetime

from consumers.warehouse.store import Store
from infra.errors import ConfigError

PARTS = 64
"""In so many questions: each answer is held in memory."""
SLACK_DAYS = 31


def seen(store: Store, since_ms: int) -> Iterator[list[str]]:
    """Every id that an event since then names, some at a time. ConfigError where events do not go back that far. Retryable."""
    table = f"{store.database}.events"
    ((n, oldest_ms),) = store.rows(f"SELECT count(), toUnixTimestamp64Milli(min(collector_ts)) FROM {table}")  # noqa: S608 - ours
    if not n or oldest_ms > since_ms + SLACK_DAYS * 86_400_000:
        raise ConfigError(
            f"the warehouse holds no event from around {datetime.fromtimestamp(since_ms / 1000, UTC):%Y-%m-%d}, so who was not "
            "seen since then cannot be told: choose fewer --days, or restore its events first"
        )
    for part in range(PARTS):
        rows = store.rows(
            f"SELECT DISTINCT arrayJoin(arrayPushBack(identifiers, node)) AS id FROM {table} "  # noqa: S608 - ours
            f"WHERE collector_ts >= fromUnixTimestamp64Milli(toInt64({since_ms})) AND cityHash64(id) % {PARTS} = {part}"
        )
        yield [one for (one,) in rows]
