"""`headwater consent verify-audit`: checks the audit chains in ClickHouse, record by record."""

import json
from collections.abc import Iterator
from typing import Annotated, Any

import clickhouse_connect
import typer
from clickhouse_connect.driver.exceptions import ClickHouseError

from infra.clients.clickhouse import client_options
from infra.clients.kafka import settings_with_kafka
from infra.errors import ConfigError
from infra.settings import Settings, without_login
from schemas.codec import decode
from schemas.registry import Registry
from streams.consent.decision.audit import HASHED, ChainBreak, ChainHead, find_breaks
from streams.consent.ledger.ledger_writes import HEADS
from streams.runtime.follow import read_partition

TIMES = ("minute", "event_ts")


def read_audit(settings: Settings) -> Iterator[dict[str, Any]]:
    """The rows of all chains, in order. ConfigError where ClickHouse does not answer."""
    columns = ", ".join(f"toUnixTimestamp64Milli({name})" if name in TIMES else name for name in (*HASHED, "hash"))
    query = f"SELECT {columns} FROM {settings.clickhouse_database}.consent_audit WHERE seq > 0 ORDER BY chain, seq"  # noqa: S608 - columns and database are ours, not input
    try:
        client = clickhouse_connect.get_client(**client_options(settings.clickhouse), autogenerate_session_id=False)
        with client.query_rows_stream(query) as rows:
            for row in rows:
                yield dict(zip((*HASHED, "hash"), row, strict=True))
    except (ClickHouseError, OSError) as error:
        raise ConfigError(
            f"ClickHouse at {without_login(settings.clickhouse)} does not answer: {type(error).__name__}"
        ) from None


def read_heads(settings: Settings) -> dict[int, ChainHead]:
    """The head of each chain, from `consent.heads`."""
    registry, last_links = Registry(settings.contracts), {}
    for partition in range(settings.partitions):
        for records in read_partition(settings, HEADS, partition):
            for _, value in records:
                if value is not None:
                    record = decode(registry, value)[1]
                    last_links[record["chain"]] = ChainHead(record["seq"], record["hash"])
    return last_links


def verify_command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Recompute the hash of every audit record and follow each chain to its last link; exits 1 where one does not hold.

    Records that retention has removed from the beginning of a chain are no fault.
    """
    settings = settings_with_kafka()
    last, n = read_heads(settings), 0

    def counted() -> Iterator[dict[str, Any]]:
        nonlocal n
        for record in read_audit(settings):
            n += 1
            yield record

    broken = list(find_breaks(counted(), last))
    if as_json:
        typer.echo(json.dumps({"records": n, "chains": len(last), "broken": [chain_break._asdict() for chain_break in broken]}))
    else:
        for chain_break in broken[:20]:
            typer.echo(_describe(chain_break))
        verdict = f"{len(broken)} places do not hold" if broken else "all hold" if n else "nothing to verify"
        typer.echo(f"{n} records in {len(last)} chains: {verdict}")
    if broken:
        raise typer.Exit(1)


def _describe(chain_break: ChainBreak) -> str:
    return f"chain {chain_break.chain}, record {chain_break.seq}: {chain_break.problem}"
