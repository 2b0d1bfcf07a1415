"""`headwater privacy verify`: counts what is left of a person, and recomputes the chain of proofs."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import clickhouse_connect
import typer
from clickhouse_connect.driver.exceptions import ClickHouseError

from consumers.privacy.audit import HASHED, ChainBreak, ChainHead, chain_breaks
from consumers.privacy.context import SLOTS, PrivacyContext
from consumers.privacy.erasure import erasure_members, read_proofs
from consumers.privacy.session import (
    REQUEST,
    AsJson,
    Who,
    find_open_erasure,
    open_context,
    resolve_names,
    search_targets,
    warn_if_unknown,
)
from infra.clients.clickhouse import client_options
from infra.errors import ConfigError
from infra.settings import Settings, without_login
from streams.identity.repair.erasing import Members

LOADED_S, POLL_S = 5.0, 0.5
"""How long a new proof may take to be loaded into ClickHouse, and how often it is looked up."""
TIMES = ("requested_ts", "erased_ts", "done_ts")


class Findings(NamedTuple):
    """What a verification found."""

    remaining: Mapping[str, int]
    """Place -> records, keys and rows that should have been erased."""
    newer: Mapping[str, int]
    """Place -> records, keys and rows that were collected after the erasure: no fault."""
    proof: Mapping[str, Any] | None
    is_open: bool
    """Whether an erasure of the person is still open."""
    breaks: list[ChainBreak]

    @property
    def clean(self) -> bool:
        """Whether nothing is left and the chain holds."""
        return not self.breaks and not any(self.remaining.values())

    def as_json(self) -> dict[str, Any]:
        """Plain values under the names of the command's output."""
        return {
            "left": self.remaining, "since": self.newer, "proof": self.proof, "open": self.is_open, "clean": self.clean,
            "broken": [fault._asdict() for fault in self.breaks],
        }  # fmt: skip


def verify_command(identifier: Who, as_json: AsJson = False) -> None:
    """Count what is left of a person anywhere, and recompute the chain of erasures; exits 1 unless both are as they should be.

    Of a request that is done the ids are gone: its proof is looked up. Give an id of the person to look for her again; what was
    collected since she was erased is told apart, and is no fault.
    """
    with open_context(quiet=as_json) as (context, report):
        report("recomputing the chain")
        breaks = chain_faults(context)
        names = resolve_names(context.settings, identifier)
        erasure = find_open_erasure(context, names)
        if erasure is None and REQUEST.fullmatch(identifier):
            proof = next((record for record in read_proofs(context) if record["request_id"] == identifier), None)
            if proof is None:
                raise ConfigError("no such request")
            findings = Findings({}, {}, proof, False, breaks)
        else:
            report("counting what is left")
            now = int(time.time() * 1000)
            remaining, newer = Counter[str](), Counter[str]()
            targets = [(erasure_members(erasure), erasure["erased_ts"])] if erasure else search_targets(context, names)
            for members, until in targets:
                remaining.update(_count_remaining(context, members, until))
            if not erasure and any(until < now for _, until in targets):
                members = context.members(names)
                newer = Counter(context.count_remaining(members, now, context.search(members, now))) - remaining
            findings = Findings(remaining, newer, None, erasure is not None, breaks)
    if as_json:
        typer.echo(json.dumps(findings.as_json()))
    else:
        _print(findings)
    if not findings.clean:
        raise typer.Exit(1)


def _print(findings: Findings) -> None:
    for place, n in findings.remaining.items():
        typer.echo(f"{n:>10,}  {place}")
    for place, n in findings.newer.items():
        typer.echo(f"{n:>10,}  {place}, collected since she was erased")
    if findings.proof is not None:
        typer.echo(f"done: {sum(findings.proof['counts'].values()):,} records, keys and rows were removed")
    for fault in findings.breaks:
        typer.echo(f"erasure {fault.seq} of the chain: {fault.problem}")
    typer.echo("nothing is left, and the chain holds" if findings.clean else "NOT clean")


def _count_remaining(context: PrivacyContext, members: Members, until: int) -> dict[str, int]:
    traces = context.search(members, until)
    counts = context.count_remaining(members, until, traces)
    if not traces.logged and not any(context.graph.read(members.nodes)):
        counts[SLOTS] = 0  # never linked and never erased: no slot has to say that the person is erased
        warn_if_unknown(False, counts)
    return counts


def chain_faults(context: PrivacyContext) -> list[ChainBreak]:
    """Faults of the chain of erasures, in Kafka and in ClickHouse. Retryable, ConfigError."""
    records = read_proofs(context)
    head = ChainHead(records[-1]["seq"], records[-1]["hash"]) if records else ChainHead()
    deadline = time.monotonic() + LOADED_S
    # The last proof may have been written a moment ago.
    while _last_loaded(context.settings) < head.seq and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return [*chain_breaks(records, head), *chain_breaks(read_loaded_proofs(context.settings), head)]


def _last_loaded(settings: Settings) -> int:
    return max((record["seq"] for record in read_loaded_proofs(settings)), default=0)


def read_loaded_proofs(settings: Settings) -> Iterator[dict[str, Any]]:
    """The chain of erasures as ClickHouse has it. ConfigError while it is away."""
    names = (*HASHED, "hash")
    columns = ", ".join(f"toUnixTimestamp64Milli({name})" if name in TIMES else name for name in names)
    query = f"SELECT {columns} FROM {settings.clickhouse_database}.privacy_audit ORDER BY chain, seq"  # noqa: S608 - ours
    try:
        client = clickhouse_connect.get_client(**client_options(settings.clickhouse), autogenerate_session_id=False)
        with client.query_rows_stream(query) as rows:
            for row in rows:
                yield dict(zip(names, row, strict=True))
    except (ClickHouseError, OSError) as error:
        raise ConfigError(
            f"ClickHouse at {without_login(settings.clickhouse)} does not answer: {type(error).__name__}"
        ) from None
