"""Counts what the stage decided: in `stream.counts`, in metrics, and in the audit."""

from collections import Counter

from infra.telemetry.metrics import Metrics
from streams.consent.decision.decide import Action
from streams.consent.decision.decision_cache import EventContext, OutcomeKey
from streams.consent.formats.reason import ConsentReason
from streams.consent.ledger.ledger_writes import LedgerWrites
from streams.runtime.stage import CountCell, Outcome

MINUTE_MS = 60_000
UNMAPPED = "unmapped"
"""Outcome that counts signals which the policy does not map, with their name as dimension."""
MAX_LABELS, LABEL_LENGTH = 200, 64

Tally = Counter[tuple[EventContext, OutcomeKey, int]]
"""Events by context, outcome and minute of their collector time."""


class OutcomeCounts:
    """Turns a batch's tally into counts, metrics and audit records."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._labels: set[str] = set()

    def count(self, tally: Tally, outcome: Outcome, writes: LedgerWrites) -> None:
        """Add a batch's tally to its outcome and audit. Heartbeats are not counted."""
        for (context, key, minute), n in tally.items():
            if key.heartbeat:
                continue
            start = minute * MINUTE_MS
            if key.decision.drop_reason is not None:
                outcome.dropped[key.decision.drop_reason.value] += n
            outcome.counts[CountCell(start, context.source, context.event_name, key.outcome)] += n
            if key.fingerprint:
                dimensions = (("site", context.site), *key.fingerprint)
                outcome.counts[CountCell(start, context.source, "", "fingerprint", dimensions)] += n
            for name in key.unmapped:
                outcome.counts[CountCell(start, context.source, "", UNMAPPED, (("name", name[:LABEL_LENGTH]),))] += n
            if key.decision.action is not Action.PASS:
                writes.count_denied(context.site, start, key.decision.action, key.reasons, n)
            self._count_metrics(context.source, key, n)

    def _count_metrics(self, source: str, key: OutcomeKey, n: int) -> None:
        for name in key.unmapped:
            label = self._label(name[:LABEL_LENGTH])
            self._metrics.count("headwater_consent_unmapped_total", n, source=source, name=label)
        for section in key.unreadable_sections:
            self._metrics.count("headwater_consent_gpp_unreadable_total", n, section=str(section))
        for ruling in key.decision.rulings:
            if ruling.reason is ConsentReason.CONFLICT:
                self._metrics.count("headwater_consent_conflicts_total", n, purpose=ruling.purpose)

    def _label(self, name: str) -> str:
        """A name that senders choose, as a metric's label; `other` beyond `MAX_LABELS` different ones."""
        if name not in self._labels and len(self._labels) >= MAX_LABELS:
            return "other"
        self._labels.add(name)
        return name


__all__ = ["MINUTE_MS", "OutcomeCounts", "Tally"]
