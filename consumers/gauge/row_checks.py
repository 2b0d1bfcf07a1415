"""The results of the warehouse's verification of its rows, from the ClickHouse view `verification_status`."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError

from infra.clients.clickhouse import client_options
from infra.settings import Settings
from infra.telemetry.logs import get_logger

INTERVAL_S = 30.0
TIMEOUT_S = 10
KINDS = ("missing", "duplicates", "unexpected", "different")


@dataclass(frozen=True, slots=True)
class RowCheck:
    """The last verification of one topic: its worst partition. Times in seconds UTC."""

    topic: str
    verified_at: float
    """When the partition whose verification is oldest was verified."""
    faults: tuple[tuple[str, int], ...]
    """(kind, number of wrong rows)."""
    unverifiable: int
    """Offsets that Kafka deleted before they were compared."""

    @property
    def text(self) -> str:
        """The faults in words."""
        return ", ".join(f"{n:,} {kind}" for kind, n in self.faults) or "as Kafka's records"


def row_checks_json(checks: tuple[RowCheck, ...]) -> list[dict[str, Any]]:
    """Return JSON values, times in milliseconds UTC."""
    return [
        {
            "topic": check.topic,
            "verified_at": round(check.verified_at * 1000),
            **{kind: dict(check.faults).get(kind, 0) for kind in KINDS},
            "unverifiable": check.unverifiable,
        }
        for check in checks
    ]


def read_row_checks(settings: Settings) -> tuple[RowCheck, ...]:
    """Return one check per topic, sorted by name. ClickHouseError or OSError where ClickHouse does not answer."""
    client = clickhouse_connect.get_client(
        **client_options(settings.clickhouse),
        autogenerate_session_id=False,
        send_receive_timeout=TIMEOUT_S,
        connect_timeout=TIMEOUT_S,
        query_retries=0,
    )
    sums = ", ".join(f"sum({kind})" for kind in (*KINDS, "unverifiable"))
    database = settings.clickhouse_database.replace("`", "``")
    query = (
        f"SELECT topic, toUnixTimestamp64Milli(min(last_verified_at)), {sums} "  # noqa: S608 - constants and an escaped setting
        f"FROM `{database}`.verification_status GROUP BY topic ORDER BY topic"
    )
    try:
        rows = client.query(query).result_rows
    finally:
        client.close()
    return tuple(
        RowCheck(topic, ms / 1000, tuple((kind, int(n)) for kind, n in zip(KINDS, counts, strict=True) if n), int(unverifiable))
        for topic, ms, *counts, unverifiable in rows
    )


async def watch_row_checks(settings: Settings, show: Callable[[tuple[RowCheck, ...] | None], None]) -> None:
    """Read the checks every `INTERVAL_S` for ever; calls `show(None)` while ClickHouse does not answer."""
    away = False
    while True:
        try:
            show(await asyncio.to_thread(read_row_checks, settings))
            away = False
        except (ClickHouseError, OSError) as error:
            if not away:
                get_logger().warning("no row checks", reason=type(error).__name__)
            away = True
            show(None)
        await asyncio.sleep(INTERVAL_S)
