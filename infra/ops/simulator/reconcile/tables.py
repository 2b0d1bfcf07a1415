"""Reads the layers that are ClickHouse tables, a slice of offsets at a time."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import clickhouse_connect
import orjson
from clickhouse_connect.driver.exceptions import ClickHouseError

from infra.clients.clickhouse import client_options
from infra.errors import ConfigError
from infra.ops.simulator.marks import MarkerScan
from infra.ops.simulator.reconcile.tally import Sighting
from infra.settings import Settings

SLICE = 20_000

Ranges = Mapping[int, tuple[int, int]]
"""Partition -> (first offset, end offset)."""


class Tables:
    """The warehouse's tables."""

    def __init__(self, settings: Settings) -> None:
        self._database = settings.clickhouse_database
        try:
            self._client: Any = clickhouse_connect.get_client(
                **client_options(settings.clickhouse), autogenerate_session_id=False
            )
        except (ClickHouseError, OSError) as error:
            raise ConfigError(f"ClickHouse does not answer ({type(error).__name__}): is the house up?") from None

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def events(self, run: str, topic_id: str, ranges: Ranges) -> Iterator[Sighting]:
        """Yield every row of `events` that was loaded from these offsets of the topic with this id."""
        markers = MarkerScan(run)
        for partition, (first, end) in ranges.items():
            for start in range(first, end, SLICE):
                place = f"_topic_id = '{topic_id}' AND _partition = {partition}"
                condition = f"{place} AND _offset >= {start} AND _offset < {min(end, start + SLICE)}"
                for line in self._event_lines(condition):
                    yield _sighting(line, markers)

    def keys(self, table: str, column: str, since_column: str, since: int) -> Counter[str]:
        """Return the number of rows per value of `column` (an SQL expression) since `since`."""
        condition = f"{since_column} >= fromUnixTimestamp64Milli({since})"
        rows = self._rows(f"SELECT {column}, count() FROM {{table}} WHERE {{condition}} GROUP BY 1", table, condition)  # noqa: S608 - ours
        return Counter({str(key): int(n) for key, n in rows})

    def _rows(self, query: str, table: str, condition: str) -> list[tuple[Any, ...]]:
        text = query.format(table=f"`{self._database}`.`{table}`", condition=condition)
        try:
            rows: list[tuple[Any, ...]] = self._client.query(text).result_rows
        except ClickHouseError as error:
            raise ConfigError(f"ClickHouse, table {table}: {str(error)[:200]}") from None
        return rows

    def _event_lines(self, condition: str) -> list[bytes]:
        query = f"SELECT * FROM `{self._database}`.events WHERE {condition} FORMAT JSONEachRow"  # noqa: S608 - numbers of our own
        try:
            answer: bytes = self._client.raw_query(query)
        except ClickHouseError as error:
            raise ConfigError(f"ClickHouse, table events: {str(error)[:200]}") from None
        return answer.split(b"\n")[:-1]


def _sighting(line: bytes, markers: MarkerScan) -> Sighting:
    row = orjson.loads(line)
    return Sighting(
        row["event_id"],
        row["event_name"],
        row["consent_outcome"],
        int(row["consent_purposes"]),
        row["profile_id"],
        row["identity_state"],
        marks=markers.find(line),
    )
