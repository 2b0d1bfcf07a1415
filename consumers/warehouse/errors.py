"""Classifies ClickHouse errors by code: rejected rows, a table at fault, or a server at fault.

Texts of exceptions can quote values of rows, so only codes, names, columns and constraints get into logs and commits.
"""

import re

from clickhouse_connect.driver.exceptions import DatabaseError

from infra.errors import ConfigError, Retryable

# Reading and converting data: 1001 std::exception (the Avro library), 33 CANNOT_READ_ALL_DATA, types and ranges.
DATA = frozenset({6, 8, 26, 27, 32, 33, 34, 38, 41, 53, 69, 70, 72, 117, 131, 321, 349, 407, 1001})
# The server as a whole: disk, memory, queries, parts, time, network, read only, Keeper, shutting down.
SERVER = frozenset(
    {
        *(74, 75, 76, 77, 87, 88, 95, 96),  # files and sockets
        *(159, 160, 173, 201, 202, 203, 241, 243, 252, 307, 394, 425, 439, 473, 692, 700, 735),  # time, memory, space, slots
        *(164, 198, 209, 210, 225, 236, 242, 254, 279, 285, 286, 319, 415, 499, 574, 999),  # read only, network, replicas
        *(1000, 1002),  # other exceptions of the process, such as a write that the system refuses
    }
)  # fmt: skip
CREDENTIALS = frozenset({192, 193, 194, 516})
WORDS = {
    159: "it takes too long", 202: "it runs too many queries", 241: "its memory is full", 243: "its disk is full",
    252: "it has too many parts", 75: "it cannot write to its disk", 76: "it cannot open a file", 164: "it is read only",
    242: "the table is read only",
}  # fmt: skip
_NAME = re.compile(r"\(([A-Z][A-Z0-9_]{3,60})\)")
_CONSTRAINT = re.compile(r"Constraint `([^`]{1,60})`")


class ServerTrouble(Retryable):
    """The server does not take inserts: one is tried again from time to time, the others wait."""

    def __init__(self, text: str) -> None:
        super().__init__(text, "clickhouse")


class TableTrouble(Retryable):
    """One table does not take rows that fit its contract: its partitions wait for a repair, the others go on."""

    def __init__(self, text: str) -> None:
        super().__init__(text, "clickhouse")


class RowsRejected(Exception):
    """ClickHouse could not read or convert the rows; nothing of them was written."""


def insert_error(error: DatabaseError) -> Exception:
    """The exception for a failed insert: RowsRejected, ServerTrouble, TableTrouble, or ConfigError for wrong credentials."""
    code = getattr(error, "code", None)
    if code in DATA:
        return RowsRejected(f"ClickHouse {_label(error)}")
    if constraint := _CONSTRAINT.search(str(error)):
        return TableTrouble(
            f"constraint {constraint.group(1)} of the table refuses rows that fit their contract ({_label(error)}): "
            f"ALTER TABLE ... DROP CONSTRAINT {constraint.group(1)}"
        )
    return _outage(error) or TableTrouble(f"ClickHouse does not take the rows ({_label(error)})")


def query_error(error: DatabaseError) -> Exception:
    """The exception for a failed query: ServerTrouble, TableTrouble, or ConfigError for wrong credentials."""
    return _outage(error) or TableTrouble(f"ClickHouse: {str(error)[:500]}")


def _outage(error: DatabaseError) -> Exception | None:
    code = getattr(error, "code", None)
    if code is None:
        return ServerTrouble("ClickHouse does not answer")
    if code in CREDENTIALS:
        return ConfigError(
            "ClickHouse refuses user or password: set them in HEADWATER_CLICKHOUSE, http://user:password@host:8123"
        )
    if code in SERVER:
        return ServerTrouble(f"ClickHouse: {WORDS.get(code, 'it is in trouble')} ({_label(error)})")
    return None


def _label(error: DatabaseError) -> str:
    name = next(iter(_NAME.findall(str(error))[-1:]), "")
    return f"code {getattr(error, 'code', None)} {name}".rstrip()
