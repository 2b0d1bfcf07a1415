"""The story of an event as JSON. Pure."""

from collections.abc import Mapping
from typing import Any

from infra.ops.events.search import TopicSearch
from infra.ops.events.story import is_anonymised, ruling_text, summarise_decision, verdict
from infra.ops.events.trace import LAYERS, RESOLVED, EventTrace, epoch_ms
from schemas.codec import Record
from streams.consent.stage import RAW


def as_data(trace: EventTrace) -> dict[str, Any]:
    """The story as JSON; times are milliseconds UTC."""
    state, sentence = verdict(trace)
    decision = summarise_decision(trace)
    raw = trace.copies(RAW)[0].record if trace.copies(RAW) else trace.record
    hidden = is_anonymised(trace)
    return {
        "event_id": trace.request.event_id,
        "state": state,
        "verdict": sentence,
        "arrival": None
        if raw is None
        else _fields(raw, "event_name", "source", "site", "protocol", "collector_ts", "event_ts"),
        "problems": list((raw or {}).get("problems") or []),
        "decision": None
        if decision is None
        else {**decision._asdict(), "rulings": [{**r._asdict(), "text": ruling_text(r)} for r in decision.rulings]},
        "identity": None
        if hidden or not trace.copies(RESOLVED)
        else _fields(trace.copies(RESOLVED)[0].record, "profile_id", "node", "identity_state"),
        "rows": [_row_data(row) for row in ([] if hidden else trace.rows)],
        "row_count": len(trace.rows),
        "warehouse_error": trace.warehouse_error,
        "dead_letters": [_letter_data(copy.place, copy.record) for copy in (trace.letters.copies if trace.letters else ())],
        "unopened_dead_letters": trace.letters.unreadable if trace.letters else 0,
        "topics": [_search_data(trace.topics[topic], hidden and topic != RAW) for topic in LAYERS if topic in trace.topics],
    }


def _fields(record: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: record[name] for name in names}


def _row_data(row: Mapping[str, Any]) -> dict[str, Any]:
    place = {"topic_id": row["_topic_id"], "partition": row["_partition"], "offset": row["_offset"]}
    return {**place, "loaded_ts": epoch_ms(row["_loaded_at"]), "profile_now": row["profile_now"]}


def _letter_data(place: str, letter: Record) -> dict[str, Any]:
    opened = {"value": letter["value"].decode(errors="replace")} if "value" in letter else {}
    return {"place": place, **_fields(letter, "stage", "reason", "detail", "source", "dead_ts"), **opened}


def _search_data(search: TopicSearch, hidden: bool) -> dict[str, Any]:
    places = (
        [] if hidden else [{"partition": c.partition, "offset": c.offset, "written_ts": c.written_ms} for c in search.copies]
    )
    return {
        "topic": search.topic, "copies": len(search.copies), "places": places, "since": search.since, "until": search.until,
        "to_end": search.to_end, "unreadable": search.unreadable,
    }  # fmt: skip


__all__ = ["as_data"]
