"""An erasure from its beginning to its proof. Whatever ends it, the next run goes on where it ended.

`privacy.erasures` says who is being erased, before anything is changed, until it is done: a graph that is half marked no
longer tells who belongs together.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from consumers.privacy import topics
from consumers.privacy.audit import ChainHead, link
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
"""In which every identity worker hears of slots that were marked."""
LOOK_S = 0.5
ROUNDS = 10
"""How often ids are looked for that were linked while hers were being marked."""

Record = dict[str, Any]
Tell = Callable[[str], None]
"""Told what is done next."""


class ErasurePending(Retryable):
    """Somebody has not done a part yet; the same command goes on from here."""


def await_progress(passage: GroupProgress, group: str, deadline: float) -> None:
    """Until a group is through what lay there. Waiting after the deadline (monotonic seconds)."""
    while remaining := passage.remaining():
        if time.monotonic() > deadline:
            raise ErasurePending(f"{remaining} records wait for {group}; is it running? Then run this again")
        time.sleep(LOOK_S)


def who(erasure: Mapping[str, Any]) -> Members:
    """Whom a record of `privacy.erasures` is about."""
    return Members(tuple(erasure["nodes"]), tuple(erasure["profiles"]), tuple(erasure["shared"]))


def opened(settings: Settings) -> dict[str, Record]:
    """Erasures that are not done, by request. Retryable."""
    erasures: dict[str, Record] = {}
    for key, record in topics.everything(settings, ERASURES):
        name = (key or b"").decode()
        if record is None:
            erasures.pop(name, None)
        else:
            erasures[name] = record
    return erasures


def proofs(office: PrivacyContext) -> list[Record]:
    """The audit chain as Kafka has it. Retryable."""
    return [record for _, record in topics.everything(office.settings, AUDIT) if record is not None]


class Erasure:
    """One of them."""

    def __init__(self, office: PrivacyContext, pen: TransactionalWriter, record: Record, tell: Tell, patience_s: float) -> None:
        self._office = office
        self._pen = pen
        self.record = record
        self._tell = tell
        self._patience_s = patience_s
        self._met: tuple[str, ...] = ()

    @classmethod
    def begin(
        cls, office: PrivacyContext, pen: TransactionalWriter, members: Members, tell: Tell, patience_s: float
    ) -> "Erasure":
        """A new one, written down before anything is changed."""
        now = int(time.time() * 1000)
        record = {
            "request_id": uuid.uuid4().hex, "state": BEGUN, **_ids(members), "erased_ts": now, "requested_ts": now,
            "deadline_ts": now + int(office.settings.privacy_sla_s * 1000),
            "counts": office.left(members, now, office.search(members, now)),
        }  # fmt: skip
        erasure = cls(office, pen, record, tell, patience_s)
        erasure._save()
        return erasure

    def run(self) -> Record:
        """Do all that is left to do; the record of the audit. Waiting where somebody has not done a part in time."""
        if self.record["state"] == BEGUN:
            self._mark()
            self._sweep()
            self._ask()
        self._await_rooms()
        return self._prove()

    # -- the graph

    def _mark(self) -> None:
        for _ in range(ROUNDS):
            members = who(self.record)
            self._tell("marking her ids in the graph")
            slots = graph.suppress(self._office.graph, members, self.record["erased_ts"])
            self._tell("logging that they are marked")
            logged = graph.log_records(slots, self.record["erased_ts"])
            self._pen.write(self._pen.output(topics.MERGES, key, record) for key, record in logged)
            self._office.graph.confirm(slots)
            self._tell("waiting for what the identity workers had in hand")
            self._settle()
            grown = graph.more(self._office.graph, members, self._office.alias)
            if grown == members:
                return
            self.record |= _ids(grown)
            self._save()
        raise ErasurePending("new ids are linked to her all the time; run it again")

    def _settle(self) -> None:
        time.sleep(GRACE_S)
        # A refusal in hand would be remembered of her ids once more, after they were forgotten.
        passage = GroupProgress(self._office.settings, IDENTITY, [CONSENTED, REVOCATIONS])
        await_progress(passage, "the identity worker", time.monotonic() + self._patience_s)

    # -- the topics

    def _sweep(self) -> None:
        """Out of long-kept topics and what Redis keeps beside slots; its keys first: the topics tell which they are."""
        office, members = self._office, who(self.record)
        self._tell("searching the topics that are kept")
        traces = office.search(members, self.record["erased_ts"])
        self._met = traces.neighbours or self._met
        self._tell("removing keys from Redis")
        office.graph.forget(members.nodes, graph.holders(office.graph, members, self._met))
        self._tell("removing what is remembered of her consent")
        for partition, keys in office.view(members, self.record["erased_ts"], traces):
            office.states.erase(partition, keys, self.record["erased_ts"])
        self._tell("removing records from the topics")
        self._pen.write(_rewritten(self._pen, members, traces))

    def _ask(self) -> None:
        self._tell("asking every room to do its part")
        self.record["state"] = ASKED
        request = {
            "request_id": self.record["request_id"], "kind": ERASURE, "subject": "", "nodes": [], "profiles": [], "site": "",
            "purposes": [], "withdrawn_ts": self.record["erased_ts"], "requested_ts": self.record["requested_ts"],
            "deadline_ts": self.record["deadline_ts"],
        }  # fmt: skip
        name = self.record["request_id"].encode()
        self._pen.write([self._pen.output(ERASURES, name, self.record), self._pen.output(REQUESTS, name, request)])

    # -- the rooms

    def _await_rooms(self) -> None:
        self._tell("waiting for the rooms")
        deadline = time.monotonic() + self._patience_s
        while missing := [room for room in ROOMS if room not in self.answers()]:
            if time.monotonic() > deadline:
                raise ErasurePending(f"{', '.join(missing)} did not answer yet; is it running? Then run this again")
            time.sleep(LOOK_S)

    def answers(self) -> dict[str, str]:
        """Room -> what it did."""
        acks = topics.everything(self._office.settings, ACKS, self.record["requested_ts"])
        mine = (record for _, record in acks if record is not None and record["request_id"] == self.record["request_id"])
        return {record["room"]: record["detail"] for record in mine}

    # -- the proof

    def left(self) -> dict[str, int]:
        """Place -> what is there still."""
        members, until = who(self.record), self.record["erased_ts"]
        traces = self._office.search(members, until)
        return self._office.left(members, until, traces._replace(neighbours=tuple(sorted({*traces.neighbours, *self._met}))))

    def _prove(self) -> Record:
        self._tell("counting what is left")
        remaining = self.left()
        if any(remaining.values()):
            # Somebody who was behind may have written something after it was looked for.
            self._sweep()
            person = rows.ErasedPerson(*who(self.record), until=self.record["erased_ts"])
            rows.erase_rows(self._office.warehouse, self.record["request_id"], person)
            remaining = self.left()
        if any(remaining.values()):
            there = ", ".join(f"{place} {n}" for place, n in remaining.items() if n)
            raise ErasurePending(f"something is left: {there}. Run it again; the request stays open until nothing is")
        self._tell("writing the proof")
        audit = proofs(self._office)
        before = next((record for record in audit if record["request_id"] == self.record["request_id"]), None)
        name = self.record["request_id"].encode()
        head = ChainHead(audit[-1]["seq"], audit[-1]["hash"]) if audit else ChainHead()
        proof = before or link(head, self.record, self._counts(), int(time.time() * 1000))
        written = [] if before else [self._pen.output(AUDIT, str(proof["chain"]).encode(), proof)]
        self._pen.write([*written, WriterRecord(ERASURES, name, None)])
        return proof

    def _counts(self) -> dict[str, int]:
        """What there was when it began; of rows, what was removed, because some may have come in between."""
        removed = rows.count_removed(self._office.warehouse, self.record["request_id"])
        counts = dict(self.record["counts"])
        for table, n in removed.items():
            counts[f"clickhouse.{table}"] = n
        return counts

    def _save(self) -> None:
        self._pen.write([self._pen.output(ERASURES, self.record["request_id"].encode(), self.record)])


def _rewritten(pen: TransactionalWriter, members: Members, traces: PersonTraces) -> Iterable[WriterRecord]:
    """Tombstones, and records without her ids where they say something of others too."""
    hers, stamped = frozenset(members.nodes), frozenset(members.profiles) - frozenset(members.shared)
    for topic, records in traces.records.items():
        for trace in records:
            record = trace.record
            if topic == REQUESTS:
                yield pen.output(REQUESTS, trace.key, _without(record, hers, hers | stamped), trace.partition)
            elif topic != MERGES or graph.older(record, traces.epochs):
                yield WriterRecord(topic, trace.key, None, trace.partition)
            if topic == LINKS and (others := graph.without(record, hers)) is not None:
                yield pen.output(LINKS, others["link_id"].encode(), others)


def _without(request: Record, hers: frozenset[str], stamped: frozenset[str]) -> Record:
    """A withdrawal that names nobody who was erased."""
    return {
        **request, "subject": "" if request["subject"] in hers else request["subject"],
        "nodes": [node for node in request["nodes"] if node not in hers],
        "profiles": [profile for profile in request["profiles"] if profile not in stamped],
    }  # fmt: skip


def _ids(members: Members) -> dict[str, list[str]]:
    return {name: list(some) for name, some in members._asdict().items()}


__all__ = ["Erasure", "ErasurePending", "await_progress", "opened", "proofs", "who"]
