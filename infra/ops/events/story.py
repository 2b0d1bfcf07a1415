"""Tells the trace of an event: a verdict, then what each room did. Pure."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from consumers.gauge.live.live_event import PurposeRuling, read_rulings
from infra.ops.events.search import MAX_COPIES
from infra.ops.events.trace import DEAD, LAYERS, RESOLVED, EventTrace, epoch_ms
from schemas.codec import Record
from streams.consent.decision.decide import Action
from streams.consent.formats.reason import ConsentReason
from streams.consent.messages import OUTCOMES, REASONS
from streams.consent.policy import BITS
from streams.consent.stage import CONSENTED, RAW

TIERS = {"0": "user", "1": "device", "2": "cookie", "3": "e-mail or phone"}
"""Tier digit of a node -> kind of identifier."""
STATES = {
    "resolved": "one visitor",
    "unresolved": "not looked up, because the identity graph was away; it is linked once that is back",
    "shared": "nobody: its identifiers belong to several persons",
    "anonymous": "nobody: it names no identifier, or consent removed them",
}
ROOMS = {RAW: "consent", CONSENTED: "identity", RESOLVED: "the warehouse"}
"""Topic -> the room that reads it."""


def ruling_text(ruling: PurposeRuling) -> str:
    """The reason in words; its code where a newer release wrote it."""
    return REASONS[ConsentReason(ruling.reason)] if ruling.reason in set(ConsentReason) else ruling.reason


class DecisionSummary(NamedTuple):
    """What consent decided."""

    outcome: str
    """pass, strip, anonymise or drop."""
    policy: str
    rulings: tuple[PurposeRuling, ...]
    certain: bool
    """False where the audit counts events of the same site and minute with other reasons, so that these may be another's."""


def summarise_decision(trace: EventTrace) -> DecisionSummary | None:
    """What consent decided; None where it has not read the event, or nothing says so.

    A dropped event leaves a count in the audit, by site, minute, outcome and reasons.
    """
    if copies := trace.copies(CONSENTED):
        record = copies[-1].record
        rulings = read_rulings(record["consent_reasons"], record["consent_purposes"])
        return DecisionSummary(record["consent_outcome"], record["consent_policy"], rulings, certain=True)
    if not trace.copies(RAW) or trace.waiting.get(RAW) != 0:
        return None
    audit = [copy.record for copy in trace.audit.copies] if trace.audit else []
    dropped = [record for record in audit if record["kind"] == "denied" and record["outcome"] == Action.DROP]
    if not dropped:
        return None
    reasons = dropped[0]["reasons"]
    certain = all(record["reasons"] == reasons for record in dropped)
    granted = sum(
        BITS.get(ruling.purpose, 0)
        for ruling in read_rulings(reasons, 0)
        if ruling.reason in {ConsentReason.OK_CONSENT, ConsentReason.OK_LI}
    )
    return DecisionSummary(Action.DROP, dropped[0]["policy"], read_rulings(reasons, granted), certain)


def verdict(trace: EventTrace) -> tuple[str, str]:
    """(state in one word, the sentence that answers where the event is)."""
    if trace.rows:
        return "loaded", "It is in ClickHouse."
    if trace.letters and trace.letters.copies:
        letter = trace.letters.copies[-1].record
        return "dead", f"It could not be used: {letter['stage']} made a dead letter of it, {letter['reason']}."
    topic = next((topic for topic in reversed(LAYERS) if trace.copies(topic)), None)
    if topic is None:
        return "unknown", "It is in no layer that was searched."
    waiting = trace.waiting.get(topic)
    if waiting is None:
        return "waiting", f"It waits on {topic}: {ROOMS[topic]} has never read that partition. Does it run?"
    if waiting:
        return "waiting", f"It waits on {topic}: {ROOMS[topic]} has {waiting:,} records to read until it is past it."
    return _passed(trace, topic)


def _passed(trace: EventTrace, topic: str) -> tuple[str, str]:
    """The verdict on an event that its next room has read and not passed on."""
    if topic == RAW:
        decision = summarise_decision(trace)
        if decision is not None:
            return "dropped", OUTCOMES[Action.DROP]
        return "dropped", "Consent has read it and passed nothing on under its id; the audit counts no dropped event like it."
    if topic == CONSENTED:
        return "dropped", (
            "Identity has read it and left it out: an event of the same id came before it (see Copies; --all reads on), "
            "or its person was erased."
        )
    if trace.warehouse_error:
        return "passed", f"It left the last stage. Whether its row is there is not known: {trace.warehouse_error}."
    return "missing", (
        "The warehouse has read it, and no row is there: the row was erased, or is older than the table keeps; "
        "else `headwater warehouse verify` finds what is missing."
    )


def is_anonymised(trace: EventTrace) -> bool:
    """Whether the event was anonymised: nothing printed may lead from its id to its anonymous record."""
    decision = summarise_decision(trace)
    return bool(trace.copies(RAW)) and decision is not None and decision.outcome == Action.ANONYMISE


def tell(trace: EventTrace) -> Iterator[tuple[str, str]]:
    """Yield (label, line) of the story; an empty label continues the one before."""
    yield "Event", trace.request.event_id
    if trace.record is not None and trace.record["event_id"] == trace.event_ids[1]:
        yield "", f"its id shows a person's address, so it is stored as {trace.event_ids[1]}"
    yield "Verdict", verdict(trace)[1]
    if trace.record is not None:
        yield from _arrival(trace, trace.record)
        yield from _labelled("Consent", _decision(trace))
        yield from _labelled("Visitor", _visitor(trace))
    yield from _labelled("ClickHouse", _rows(trace))
    yield from _labelled("Dead letters", _letters(trace))
    yield from _labelled("On topics", _places(trace))
    yield from _labelled("Not found", _absent(trace))


def _labelled(label: str, lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Lines with the label before the first."""
    for number, line in enumerate(lines):
        yield ("" if number else label), line


def _arrival(trace: EventTrace, record: Record) -> Iterator[tuple[str, str]]:
    raw = trace.copies(RAW)[0].record if trace.copies(RAW) else record
    happened = f"; by its own clock {format_ms(raw['event_ts'])}" if raw["event_ts_source"] != "collector" else ""
    yield "Arrived", f"{format_ms(raw['collector_ts'])}{happened}"
    yield "", f"as {raw['event_name']}, through the door of {raw['protocol']}, from source {raw['source']}, site {raw['site']}"
    problems: list[str] = raw.get("problems") or ["none"]
    yield from _labelled("Problems", problems)
    copies = trace.copies(RAW)
    if len(copies) > 1:
        shown = f"{MAX_COPIES} or more" if len(copies) == MAX_COPIES else str(len(copies))
        yield "Copies", f"{shown} on {RAW}, from {format_ms(copies[0].written_ms)} to {format_ms(copies[-1].written_ms)}"
        yield "", "identity passes the first that it reads and leaves the others out"


def _decision(trace: EventTrace) -> Iterator[str]:
    decision = summarise_decision(trace)
    if decision is None:
        yield "not decided yet, or nothing tells what was decided"
    else:
        outcome = decision.outcome
        yield OUTCOMES[Action(outcome)] if outcome in set(Action) else f"({outcome})"
        width = max((len(ruling.purpose) for ruling in decision.rulings), default=0)
        for ruling in decision.rulings:
            yield f"{ruling.purpose:<{width}}  {'yes' if ruling.granted else 'no':<3}  {ruling_text(ruling)} ({ruling.reason})"
        yield f"by policy {decision.policy}"
        if not decision.certain:
            yield "other events of this site and minute were dropped for other reasons: these may be theirs"
    audit = [copy.record for copy in trace.audit.copies] if trace.audit else []
    if choices := sorted({record["outcome"] for record in audit if record["kind"] == "state"}):
        yield f"choices of this visitor were stored in that minute: {', '.join(choices)}"


def _visitor(trace: EventTrace) -> Iterator[str]:
    raw = trace.copies(RAW)[0].record if trace.copies(RAW) else None
    if raw is not None:
        kinds = sorted({TIERS.get(node[:1], "unknown") for node in raw["identifiers"]})
        yield f"identifiers that were sent: {', '.join(kinds) or 'none'}"
    if not (copies := trace.copies(RESOLVED)):
        return
    record = copies[0].record
    state = str(record["identity_state"])
    yield STATES.get(state, state)
    if record["profile_id"]:
        yield f"profile {record['profile_id']}, by its node {record['node']}"
        profile_now = trace.rows[0]["profile_now"] if trace.rows else record["profile_id"]
        if profile_now != record["profile_id"]:
            yield f"which belongs to profile {profile_now} today"


def _rows(trace: EventTrace) -> Iterator[str]:
    if trace.warehouse_error:
        yield f"could not be asked: {trace.warehouse_error}"
    elif is_anonymised(trace):
        yield "its row has another id and no link to this one; it is there" if trace.rows else "no row yet"
    elif not trace.rows:
        yield f"no row, searched from {format_ms(trace.request.since)}"
    for row in () if is_anonymised(trace) else trace.rows:
        yield f"row {row['_partition']}:{row['_offset']}, loaded {format_ms(epoch_ms(row['_loaded_at']))}"
    if len(trace.rows) > 1:
        yield f"{len(trace.rows)} rows of one event: `headwater warehouse verify` tells whether they are duplicates"


def _letters(trace: EventTrace) -> Iterator[str]:
    if trace.letters is None:
        return
    for copy in trace.letters.copies:
        letter = copy.record
        yield f"{copy.place} by {letter['stage']}, {format_ms(letter['dead_ts'])}: {letter['reason']}. {letter['detail']}"
        if "value" in letter:
            yield f"bytes: {letter['value']!r}"
        elif trace.request.decrypt:
            yield "its key is destroyed, or is not this installation's"
    if trace.letters.unreadable:
        yield f"{trace.letters.unreadable:,} others could not be opened and may be about it"
    if not trace.request.decrypt and not trace.copies(RAW):
        yield "what a door refused is encrypted: --decrypt opens the letters with the key at hand and searches them"


def _places(trace: EventTrace) -> Iterator[str]:
    for topic in LAYERS:
        copies = trace.copies(topic)
        if not copies:
            continue
        if topic != RAW and is_anonymised(trace):
            yield f"{topic}  once, without a link to it"
            continue
        places = ", ".join(copy.place for copy in copies[:5]) + (f" and {len(copies) - 5} more" if len(copies) > 5 else "")
        yield f"{topic}  {places}"
    if any(search.copies and not search.to_end for search in trace.topics.values()):
        yield "each search ended with the first copies; --all reads on"


def _absent(trace: EventTrace) -> Iterator[str]:
    for topic in LAYERS:
        search = trace.topics.get(topic)
        if search is None or search.copies:
            continue
        yield f"in {topic}, searched from {format_ms(search.since)} to {format_ms(search.until)}"
        if search.unreadable:
            yield f"{search.unreadable} records there hold its id and cannot be read"
    letters = trace.letters
    if letters is not None and not letters.copies and letters.until > letters.since:
        yield f"in {DEAD}, searched from {format_ms(letters.since)} to {format_ms(letters.until)}"


def format_ms(moment: int) -> str:
    """A time in milliseconds UTC for people."""
    at = datetime.fromtimestamp(moment / 1000, UTC)
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d} UTC"


__all__ = ["DecisionSummary", "format_ms", "is_anonymised", "ruling_text", "summarise_decision", "tell", "verdict"]
