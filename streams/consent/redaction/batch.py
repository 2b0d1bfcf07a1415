"""Redacts the events of one batch, many at once, and keeps their order among those that pass."""

from typing import NamedTuple

from schemas.codec import Undecodable
from streams.consent.decision.decision_cache import DecisionCache, EncodedDecision, EventContext, OutcomeKey
from streams.consent.policy import BITS
from streams.consent.redaction.reference import RandomIds
from streams.runtime.stage import BY_KEY, Batch, Outcome, Output

CHUNK = 1_000
"""Events that are redacted at once."""


class Redaction(NamedTuple):
    """An event that waits to be redacted."""

    position: int
    """Among what is written."""
    at: int
    """In the batch."""
    context: EventContext
    decision: EncodedDecision
    minute: int
    """Of its collector time, since 1970."""


class BatchRedactor:
    """What one batch writes to `events.consented`, and what it counts."""

    def __init__(self, batch: Batch, outcome: Outcome, now: float, key: bytes) -> None:
        """`now`: seconds UTC, under which events that cannot be rewritten are counted. `key`: of the ids of `RandomIds`."""
        self._batch = batch
        self._outcome = outcome
        self._now = now
        self._ids = RandomIds(key, batch.topic_id, batch.partition)
        self.written: list[Output | None] = []
        """None where an event waits to be redacted."""
        self.counted: list[tuple[EventContext, OutcomeKey, int]] = []
        """Context, outcome and minute of each event."""
        self._anonymised: dict[DecisionCache, list[Redaction]] = {}
        self._stripped: dict[DecisionCache, list[Redaction]] = {}

    def defer_redaction(
        self, at: int, cache: DecisionCache, context: EventContext, decision: EncodedDecision, minute: int
    ) -> None:
        """Keep a place among what is written for the event at this position of the batch; a dropped one is only counted."""
        if decision.drops:
            self._count(cache, context, decision, minute, self._batch.values[at] or b"")
            return
        redactions = self._anonymised if decision.anonymises else self._stripped
        redactions.setdefault(cache, []).append(Redaction(len(self.written), at, context, decision, minute))
        self.written.append(None)

    def write_redacted(self) -> None:
        """Redact the deferred events, each in its place. One that cannot be decoded is a dead letter."""
        for redact, redactions in ((self._anonymise, self._anonymised), (self._strip, self._stripped)):
            for cache, waiting in redactions.items():
                for start in range(0, len(waiting), CHUNK):
                    redact(cache, waiting[start : start + CHUNK])

    def _anonymise(self, cache: DecisionCache, redactions: list[Redaction]) -> None:
        rewriter = cache.rewriter
        values = [self._batch.values[redaction.at] or b"" for redaction in redactions]
        ids = [self._ids.of(self._batch.offsets[redaction.at]) for redaction in redactions]
        data = rewriter.anonymise_many(values, ids)
        for redaction, value, new_id, datum in zip(redactions, values, ids, data, strict=True):
            try:
                self._write(cache, redaction, value, new_id.encode(), datum or rewriter.anonymise(value, new_id))
            except Undecodable as error:
                self._outcome.dead_letter(redaction.at, str(error), self._now)

    def _strip(self, cache: DecisionCache, redactions: list[Redaction]) -> None:
        rewriter = cache.rewriter
        values = [self._batch.values[redaction.at] or b"" for redaction in redactions]
        for redaction, value, ends in zip(redactions, values, rewriter.ends(values), strict=True):
            mask, key = redaction.decision.decision.mask, self._batch.keys[redaction.at]
            try:
                datum = rewriter.strip(value, mask, ends)
            except Undecodable as error:
                self._outcome.dead_letter(redaction.at, str(error), self._now)
                continue
            if not mask & BITS["analytics"] and not redaction.decision.key.heartbeat:
                # The key is a pseudonym, and pseudonyms belong to analytics.
                key = self._ids.of(self._batch.offsets[redaction.at]).encode()
            self._write(cache, redaction, value, key, datum)

    def _write(self, cache: DecisionCache, redaction: Redaction, value: bytes, key: bytes | None, datum: bytes) -> None:
        self.written[redaction.position] = (key, redaction.decision.prefix + datum, BY_KEY)
        self._count(cache, redaction.context, redaction.decision, redaction.minute, value)

    def _count(self, cache: DecisionCache, context: EventContext, decision: EncodedDecision, minute: int, value: bytes) -> None:
        key = decision.imported_key if cache.imports.read(value) else decision.key
        self.counted.append((context, key, minute))


__all__ = ["BatchRedactor", "Redaction"]
