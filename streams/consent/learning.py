"""What the ledger learns: from events that carry a choice, from webhooks, and from withdrawals that reach a linked id."""

from typing import Any

from infra.errors import Retryable
from schemas.codec import Undecodable, UnknownContract, decode
from schemas.registry import Registry
from streams.consent.case import Memories, What, Where
from streams.consent.entries import Entries, Source
from streams.consent.evidence import SKEW_MS, Reader, believed
from streams.consent.ledger import DAY_MS, Change, Moment, Said, Times, is_erased, is_time, learn, recall, withdraw
from streams.consent.policy import BITS, Policy, Regime
from streams.consent.standing import Holding, Scope, Standing, Standings, Table
from streams.runtime.stage import Batch

SIGNALS = "consent.signals"
SUBJECT_LENGTH = 33
"""Of an identity node; every other key is an event's own and remembers nothing."""
STATE_KIND = "state"
"""Of a signal that says a whole state: its times by name, as text."""
FOR_EVER = 1 << 62
NO_TIMES: Times = {}


Event = tuple[Where, What, int]
"""An event as the ledger sees it: where, what, and its collector time, milliseconds UTC."""


class Learner:
    """Under one policy."""

    def __init__(self, registry: Registry, policy: Policy, reader: Reader, standings: Standings) -> None:
        self._registry = registry
        self._policy = policy
        self._reader = reader
        self._standings = standings

    def recall(self, event: Event, standing: Standing) -> Memories:
        """What is remembered, purpose by purpose, as far as it matters to an event."""
        _, _, time = event
        oldest = time - self._policy.memory.max_age_days * DAY_MS
        moment = Moment(time, self._said(event).granted_at, oldest)
        return tuple(recall(standing.times, purpose, moment) for purpose in self._policy.purposes)

    def learn(self, event: Event, table: Table, key: bytes, entries: Entries) -> Standing | None:
        """Take down what an event says, if that is news. Most say what is known: see `Standing.knows`, before calling this."""
        where, what, time = event
        standing = table[key]
        times: Times = NO_TIMES if standing is None else standing.times
        if is_erased(times, time):
            return standing
        dated = what.chosen and not where.is_choice
        if standing is not None and dated and all(times.get(name, 0) >= at for name, at in what.entries):
            return standing.has_learned(what.number, FOR_EVER)
        said = self._said(event)
        change = learn(times, said, time, self._policy.memory.use_stored_state)
        if change.times:
            chosen = said.denied_at if change.withdrawn else max(said.granted_at, said.denied_at)
            evidence = what.evidence
            scope = "|".join(where.scopes[what.regime])
            source = Source(scope, key.decode(), time, chosen, "event", what.hash, evidence.platform, evidence.gvl)
            standing = table[key] = Standing(entries.change(source, times, change))
        if standing is None:
            return None
        if not what.chosen:
            return standing.has_learned(what.number, time + DAY_MS)
        # A time that was not believed, of a clock that is ahead, may be soon.
        return standing.has_learned(what.number, FOR_EVER if said.granted_at or said.denied_at else time + SKEW_MS)

    def _said(self, event: Event) -> Said:
        """What an event says, with the times that can be believed; an event that is a choice is made now."""
        where, what, time = event
        said = believed(what.evidence.said, time)
        if where.is_choice:
            return said._replace(granted_at=said.granted_at or time, denied_at=said.denied_at or time)
        return said

    def take(self, batch: Batch, holding: Holding, entries: Entries) -> tuple[int, list[tuple[int, str]]]:
        """Take in a batch of `consent.signals`: how many were taken, and (place, what was wrong) of the others."""
        read: list[tuple[dict[str, Any], Regime]] = []
        broken: list[tuple[int, str]] = []
        for at, value in enumerate(batch.values):
            try:
                record = self._decode(value or b"")
            except Undecodable as error:
                broken.append((at, str(error)))
            except UnknownContract as error:
                raise Retryable(str(error)) from error
            else:
                read += [(record, regime) for regime in Regime if record["regulation"] in ("", regime.value)]
        scopes = [(regime.value, self._policy.group(record["site"])) for record, regime in read]
        places = {(scope, record["subject"].encode()) for scope, (record, _) in zip(scopes, read, strict=True)}
        self._standings.load(batch.partition, {place for place in places if place[1] not in holding.table(place[0])})
        for (record, regime), scope in zip(read, scopes, strict=True):
            holding.visitors.pop(record["subject"].encode(), None)
            self._take(record, regime, self._source(record, scope), holding.table(scope), entries)
        return len(batch) - len(broken), broken

    def _decode(self, value: bytes) -> dict[str, Any]:
        contract, record = decode(self._registry, value)
        if contract.topic != SIGNALS:
            raise Undecodable(f"a record of {contract.topic}")
        if len(record["subject"]) != SUBJECT_LENGTH or record["kind"] not in ("choice", "withdrawal", STATE_KIND):
            raise Undecodable("no subject that is an identity node, or a kind that is not known")
        if record["kind"] == STATE_KIND and not all(is_time(*item) for item in record["signals"].items()):
            raise Undecodable("a state with something that is no time of a purpose")
        return record

    def _source(self, record: dict[str, Any], scope: Scope) -> Source:
        received = record["received_ts"]
        return Source(
            "|".join(scope),
            record["subject"],
            received,
            min(record["chosen_ts"] or received, received),
            record["via"],
            record["evidence"],
            record["signals"].get("platform", ""),
        )

    def _take(self, record: dict[str, Any], regime: Regime, source: Source, table: Table, entries: Entries) -> None:
        subject = source.subject.encode()
        standing = table[subject]
        times = {} if standing is None else standing.times
        if is_erased(times, source.at):
            return
        if record["kind"] == "withdrawal":
            purposes = [name for name in record["purposes"] if name in BITS] or list(self._policy.purposes)
            change = withdraw(times, purposes, source.chosen)
        elif record["kind"] == STATE_KIND:
            said = ((name, int(time)) for name, time in record["signals"].items())
            change = Change({name: time for name, time in said if time > times.get(name, 0)}, ())
        else:
            heard, at = self._reader.hear(regime, record["signals"], source.at).said, source.chosen
            heard = believed(heard._replace(granted_at=heard.granted_at or at, denied_at=heard.denied_at or at), source.at)
            change = learn(times, heard, source.at, self._policy.memory.use_stored_state)
        if change.times:
            table[subject] = Standing(entries.change(source, times, change))
