"""Snowplow's own consent events and entities, as signals. Pure.

Sources: the schemas `consent_preferences`, `consent_withdrawn`, `consent_granted` and `consent_document` of
`iglu:com.snowplowanalytics.snowplow`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from streams.collector.fields.repeated_keys import all_values
from streams.collector.signals.signals import EVERYTHING, NOT_SELECTED, SignalBuilder

VENDOR = "iglu:com.snowplowanalytics.snowplow/"
PREFERENCES, WITHDRAWN, GRANTED, DOCUMENT = "consent_preferences", "consent_withdrawn", "consent_granted", "consent_document"
SCHEMAS = frozenset({PREFERENCES, WITHDRAWN, GRANTED, DOCUMENT})

UNDECIDED = frozenset({"pending", "implicit_consent"})
"""Event types of consent_preferences before any choice is made."""


def add_choices(signals: SignalBuilder, described: Sequence[tuple[str, Any]]) -> None:
    """Add the signals of an event and its entities of Snowplow's consent schemas. `described`: (schema, data) of each."""
    named_data = [(_name(schema), data) for schema, data in described if schema.startswith(VENDOR)]
    documents = [data for name, data in named_data if name == DOCUMENT]
    for name, data in named_data:
        if name == PREFERENCES:
            _add_preferences(signals, data)
        elif name == WITHDRAWN:
            _add_withdrawn(signals, data, documents)
        elif name == GRANTED:
            _add_documents(signals, documents, "granted")


def is_consent_schema(schema: str) -> bool:
    """Return whether `add_choices` reads data of this schema."""
    return schema.startswith(VENDOR) and _name(schema) in SCHEMAS


def _name(schema: str) -> str:
    return schema.removeprefix(VENDOR).partition("/")[0]


def _add_preferences(signals: SignalBuilder, data: Any) -> None:
    if not isinstance(data, Mapping):
        signals.put(EVERYTHING, "denied")
        return
    scopes = all_values(data, "consentScopes")
    for kind in all_values(data, "eventType") or [None]:
        _add_kind(signals, kind.strip().lower() if isinstance(kind, str) else "", scopes)
    for applies in all_values(data, "gdprApplies"):
        if applies is not None:  # the schema allows null for what is not known
            signals.add_consent({"gdpr_applies": applies})


def _add_kind(signals: SignalBuilder, kind: str, scopes: list[Any]) -> None:
    if kind:
        signals.put("platform_event", kind[:64])
    if kind in UNDECIDED:
        return
    decision = "granted" if kind in ("allow_all", "allow_selected") else "denied"
    complete = [signals.add_scopes(scope_list, decision) for scope_list in scopes]
    if kind == "allow_selected":
        signals.put(NOT_SELECTED, "denied")
    elif kind == "deny_selected" and complete and all(complete):
        pass
    elif decision == "denied":
        # deny_all, withdrawn, expired, and event types that no version of the schema has.
        signals.put(EVERYTHING, "denied")


def _add_withdrawn(signals: SignalBuilder, data: Any, documents: list[Any]) -> None:
    all_flags = all_values(data, "all") if isinstance(data, Mapping) else [None]
    _add_documents(signals, documents, "denied")
    if not documents or any(value is not False for value in all_flags):
        signals.put(EVERYTHING, "denied")


def _add_documents(signals: SignalBuilder, documents: list[Any], decision: str) -> None:
    """Add documents as scopes under their ids and their names: a policy may map either."""
    for document in documents:
        labels = [document.get("id"), document.get("name")] if isinstance(document, Mapping) else []
        readable = signals.add_scopes([label for label in labels if label not in (None, "")], decision)
        if not readable and decision == "denied":
            signals.put(EVERYTHING, "denied")


__all__ = ["VENDOR", "add_choices", "is_consent_schema"]
