"""Erases a person, from the first record to the proof. An interrupted erasure is continued by the next run.

The ids of the person are on `privacy.erasures` from before the first change until the end, because a graph that is marked in
part no longer tells which nodes belong together.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from consumers.privacy import topics
from consumers.privacy.audit import ChainHead, next_record
from consumers.privacy.context import PersonTraces, PrivacyContext
from consumers.privacy.topics import ACKS, AUDIT, ERASURES, LINKS, MERGES, REQUESTS, TransactionalWriter, WriterRecord
from consumers.warehouse import erasing as rows
from infra.errors import Retryable
from infra.settings import Settings
from streams.identity.repair import erasing as graph
from streams.identity.repair.erasing import Members
from streams.runtime.privacy.group_progress import GroupProgress
from streams.runtime.privacy.request_consumer import ASKED, ERASURE, ROOMS

BEGUN = "begun"
IDENTITY, CONSENTED, REVOCATIONS = "headwater.identity", "events.consented", "consent.revocations"
GRACE_S = 2.0
"""Within this time every identity worker learns of marked slots."""
POLL_S = 0.5
ROUNDS = 10
"""How often ids are searched that were linked while others were being marked."""

Record = dict[str, Any]
Report = Callable[[str], None]
"""Called with a description of the next step."""


class ErasurePending(Retryable):
    """A worker or room has not finished in time; the same command continues the erasure."""


def await_progress(progress: GroupProgress, group: str, deadline: float) -> None:
    """Wait until a group has reached the ends. ErasurePending after the deadline (monotonic seconds)."""
    while remaining := progress.remaining():
        if time.monotonic() > deadline:
            raise ErasurePending(f"{remaining} records wait for {group}; is it running? Then run this again")
        time.sleep(POLL_S)


def erasure_members(erasure: Mapping[str, Any]) -> Members:
    """The members that a record of `privacy.erasures` names."""
    return Members(tuple(erasure["nodes"]), tuple(erasure["profiles"]), tuple(erasure["shared"]))


def open_erasures(settings: Settings) -> dict[str, Record]:
    """Request id -> record of each open erasure. Retryable."""
    erasures: dict[str, Record] = {}
    for key, record in topics.read_records(settings, ERASURES):
        name = (key or b"").decode()
        if record is None:
            erasures.pop(name, None)
        else:
            erasures[name] = record
    return erasures


def read_proofs(context: PrivacyContext) -> list[Record]:
    """The chain of erasures as Kafka has it. Retryable."""
    return [record for _, record in topics.read_records(context.settings, AUDIT) if record is not None]


class Erasure:
    """One erasure, new or continued."""

    def __init__(
        self, context: PrivacyContext, writer: TransactionalWriter, record: Record, report: Report, patience_s: float
    ) -> None:
        self._context = context
        self._writer = writer
        self.record = record
        self._report = report
        self._patience_s = patience_s
        self._neighbours: tuple[str, ...] = ()

    @classmethod
    def begin(
        cls, context: PrivacyContext, writer: TransactionalWriter, members: Members, report: Report, patience_s: float
    ) -> "Erasure":
        """Start an erasure: record its members and counts before anything is changed. Retryable."""
        now = int(time.time() * 1000)
        record = {
            "request_id": uuid.uuid4().hex, "state": BEGUN, **_member_ids(members), "erased_ts": now, "requested_ts": now,
            "deadline_ts": now + int(context.settings.privacy_sla_s * 1000),
            "counts": context.count_remaining(members, now, context.search(members, now)),
        }  # fmt: skip
        erasure = cls(context, writer, record, report, patience_s)
        erasure._save()
        return erasure

    def run(self) -> Record:
        """Run the remaining steps; return the proof, a record of `privacy.audit`. ErasurePending, Retryable."""
        if self.record["state"] == BEGUN:
            self._mark_nodes()
            self._remove_records()
            self._request_rooms()
        self._await_rooms()
        return self._write_proof()

    # -- the graph

    def _mark_nodes(self) -> None:
        for _ in range(ROUNDS):
            members = erasure_members(self.record)
            self._report("marking her ids in the graph")
            slots = graph.suppress(self._context.graph, members, self.record["erased_ts"])
            self._report("logging that they are marked")
            logged = graph.log_records(slots, self.record["erased_ts"])
            self._writer.write(self._writer.encode(topics.MERGES, key, record) for key, record in logged)
            self._context.graph.confirm(slots)
            self._report("waiting for what the identity workers had in hand")
            self._await_identity()
            grown = graph.extend_members(self._context.graph, members, self._context.alias)
            if grown == members:
                return
            self.record |= _member_ids(grown)
            self._save()
        raise ErasurePending("new ids are linked to her all the time; run it again")

    def _await_identity(self) -> None:
        time.sleep(GRACE_S)
        # A refusal in process would store the ids once more, after they were forgotten.
        progress = GroupProgress(self._context.settings, IDENTITY, [CONSENTED, REVOCATIONS])
        await_progress(progress, "the identity worker", time.monotonic() + self._patience_s)

    # -- the topics

    def _remove_records(self) -> None:
        """Remove keys from Redis, then records from long-kept topics, because the topics tell which keys there are."""
        context, members = self._context, erasure_members(self.record)
        self._report("searching the topics that are kept")
        traces = context.search(members, self.record["erased_ts"])
        self._neighbours = traces.neighbours or self._neighbours
        self._report("removing keys from Redis")
        context.graph.forget(members.nodes, graph.find_holders(context.graph, members, self._neighbours))
        self._report("removing what is remembered of her consent")
        for partition, keys in context.view_keys(members, self.record["erased_ts"], traces):
            context.states.erase(partition, keys, self.record["erased_ts"])
        self._report("removing records from the topics")
        self._writer.write(_rewrites(self._writer, members, traces))

    def _request_rooms(self) -> None:
        self._report("asking every room to do its part")
        self.record["state"] = ASKED
        request = {
            "request_id": self.record["request_id"], "kind": ERASURE, "subject": "", "nodes": [], "profiles": [], "site": "",
            "purposes": [], "withdrawn_ts": self.record["erased_ts"], "requested_ts": self.record["requested_ts"],
            "deadline_ts": self.record["deadline_ts"],
        }  # fmt: skip
        name = self.record["request_id"].encode()
        self._writer.write([self._writer.encode(ERASURES, name, self.record), self._writer.encode(REQUESTS, name, request)])

    # -- the rooms

    def _await_rooms(self) -> None:
        self._report("waiting for the rooms")
        deadline = time.monotonic() + self._patience_s
        while missing := [room for room in ROOMS if room not in self.read_acks()]:
            if time.monotonic() > deadline:
                raise ErasurePending(f"{', '.join(missing)} did not answer yet; is it running? Then run this again")
            time.sleep(POLL_S)

    def read_acks(self) -> dict[str, str]:
        """Room -> detail of its ack. Retryable."""
        acks = topics.read_records(self._context.settings, ACKS, self.record["requested_ts"])
        mine = (record for _, record in acks if record is not None and record["request_id"] == self.record["request_id"])
        return {record["room"]: record["detail"] for record in mine}

    # -- the proof

    def count_remaining(self) -> dict[str, int]:
        """Place -> number of records, keys and rows that remain. Retryable."""
        members, until = erasure_members(self.record), self.record["erased_ts"]
        traces = self._context.search(members, until)
        return self._context.count_remaining(
            members, until, traces._replace(neighbours=tuple(sorted({*traces.neighbours, *self._neighbours})))
        )

    def _write_proof(self) -> Record:
        self._report("counting what is left")
        remaining = self.count_remaining()
        if any(remaining.values()):
            # A worker that was behind may have written something after the search.
            self._remove_records()
            person = rows.ErasedPerson(*erasure_members(self.record), until=self.record["erased_ts"])
            rows.erase_rows(self._context.warehouse, self.record["request_id"], person)
            remaining = self.count_remaining()
        if any(remaining.values()):
            there = ", ".join(f"{place} {n}" for place, n in remaining.items() if n)
            raise ErasurePending(f"something is left: {there}. Run it again; the request stays open until nothing is")
        self._report("writing the proof")
        audit = read_proofs(self._context)
        before = next((record for record in audit if record["request_id"] == self.record["request_id"]), None)
        name = self.record["request_id"].encode()
        head = ChainHead(audit[-1]["seq"], audit[-1]["hash"]) if audit else ChainHead()
        proof = before or next_record(head, self.record, self._counts(), int(time.time() * 1000))
        written = [] if before else [self._writer.encode(AUDIT, str(proof["chain"]).encode(), proof)]
        self._writer.write([*written, WriterRecord(ERASURES, name, None)])
        return proof

    def _counts(self) -> dict[str, int]:
        """Counts of the beginning; for tables the removed rows, because more may have been loaded since."""
        removed = rows.count_removed(self._context.warehouse, self.record["request_id"])
        counts = dict(self.record["counts"])
        for table, n in removed.items():
            counts[f"clickhouse.{table}"] = n
        return counts

    def _save(self) -> None:
        self._writer.write([self._writer.encode(ERASURES, self.record["request_id"].encode(), self.record)])


def _rewrites(writer: TransactionalWriter, members: Members, traces: PersonTraces) -> Iterable[WriterRecord]:
    """Tombstones, and rewritten records without the person's ids where they concern others too."""
    nodes, profiles = frozenset(members.nodes), frozenset(members.profiles) - frozenset(members.shared)
    for topic, records in traces.records.items():
        for trace in records:
            record = trace.record
            if topic == REQUESTS:
                yield writer.encode(REQUESTS, trace.key, _without(record, nodes, nodes | profiles), trace.partition)
            elif topic != MERGES or graph.is_outdated(record, traces.epochs):
                yield WriterRecord(topic, trace.key, None, trace.partition)
            if topic == LINKS and (others := graph.strip_nodes(record, nodes)) is not None:
                yield writer.encode(LINKS, others["link_id"].encode(), others)


def _without(request: Record, nodes: frozenset[str], profiles: frozenset[str]) -> Record:
    """A withdrawal without the erased ids."""
    return {
        **request, "subject": "" if request["subject"] in nodes else request["subject"],
        "nodes": [node for node in request["nodes"] if node not in nodes],
        "profiles": [profile for profile in request["profiles"] if profile not in profiles],
    }  # fmt: skip


def _member_ids(members: Members) -> dict[str, list[str]]:
    return {name: list(ids) for name, ids in members._asdict().items()}


__all__ = ["Erasure", "ErasurePending", "await_progress", "erasure_members", "open_erasures", "read_proofs"]
