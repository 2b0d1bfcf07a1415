"""Redacts decoded events: fields of denied purposes are emptied, or only an allow-list is kept. Pure.

`fast.py` does the same on bytes; this is the reference that its tests compare with.
"""

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

from infra.parsing.region import region_of
from schemas.codec import Record
from schemas.registry import Contract
from streams.consent.policy import BITS, Policy
from streams.consent.redaction.click_ids import ClickIds

HOUR_MS = 3_600_000
UNCLEANED = ("event_id", "identifiers")
"""The event id identifies duplicates, so it stays as it was sent; pseudonyms hold no text of a sender."""
SIGNALS = "signals"
DECISION_TOKENS = ClickIds(("decision_token",))
"""Tokens of decisions occur where click ids do, and are removed where personalization is denied."""

ReadsSignal = Callable[[str], bool]
"""Whether the policy reads a signal of this name."""

_EMPTY: Mapping[str, Any] = {"string": "", "boolean": False, "int": 0, "long": 0, "float": 0.0, "double": 0.0, "bytes": b""}


class ContractShape:
    """The purpose and the empty value of each field of a contract."""

    def __init__(self, contract: Contract) -> None:
        self.purposes: dict[str, str] = {field["name"]: field["purpose"] for field in contract.schema["fields"]}
        self.empty: dict[str, Any] = {field["name"]: _empty(field) for field in contract.schema["fields"]}

    def blank(self) -> Record:
        """A record with empty values."""
        return {name: _fresh(value) for name, value in self.empty.items()}

    def denied(self, policy: Policy, mask: int) -> tuple[str, ...]:
        """Fields whose purpose is not granted, or is not in the policy."""
        granted = {purpose for purpose in policy.purposes if mask & BITS[purpose]} | {"exempt"}
        return tuple(name for name, purpose in self.purposes.items() if purpose not in granted)


def _empty(field: Mapping[str, Any]) -> Any:
    if "default" in field:
        return field["default"]
    kind = field["type"]["type"] if isinstance(field["type"], dict) else field["type"]
    if kind == "array":
        return []
    return {} if kind == "map" else _EMPTY[kind]


def _fresh(value: Any) -> Any:
    return type(value)() if isinstance(value, list | dict) else value


def strip(record: Record, shape: ContractShape, policy: Policy, mask: int, click_ids: ClickIds) -> Record:
    """A copy of `record` with fields of denied purposes emptied, and click ids and tokens removed from the others.

    Without analytics only signals that the policy reads are kept.
    """
    stripped = dict(record)
    for name in shape.denied(policy, mask):
        stripped[name] = _fresh(shape.empty[name])
    for cleaner in cleaners(mask, click_ids):
        stripped |= {name: clean_value(value, cleaner) for name, value in stripped.items() if name not in UNCLEANED}
    if not mask & BITS["analytics"]:
        stripped[SIGNALS] = known_signals(stripped[SIGNALS], policy.reads)
    return stripped


def cleaners(mask: int, click_ids: ClickIds) -> list[ClickIds]:
    """Cleaners for the fields that stay, by denied purposes."""
    marketing, personalization = mask & BITS["marketing"], mask & BITS["personalization"]
    return [cleaner for granted, cleaner in ((marketing, click_ids), (personalization, DECISION_TOKENS)) if not granted]


def clean_value(value: Any, cleaner: ClickIds) -> Any:
    """Clean a field's value: a text, a map of texts, or an array of either. Others are returned as they are."""
    if isinstance(value, str):
        return cleaner.clean_text(value)
    if isinstance(value, dict):
        return cleaner.clean_map(value)
    return cleaner.clean_list(value) if isinstance(value, list) else value


def known_signals(signals: Mapping[str, str], reads: ReadsSignal) -> dict[str, str]:
    """The signals that the policy reads."""
    return {name: value for name, value in signals.items() if reads(name)}


def anonymise(record: Record, shape: ContractShape, policy: Policy, event_id: str) -> Record:
    """A new record under a new id, with the policy's allow-list, the hour and the country, and nothing else."""
    anonymous = shape.blank()
    for name in policy.anonymous_fields:
        if name in anonymous:
            anonymous[name] = record.get(name, anonymous[name])  # one that is left out has its default
    anonymous["event_id"] = event_id
    anonymous["region"] = region_of(record["region"])[:2]
    anonymous["collector_ts"] = record["collector_ts"] // HOUR_MS * HOUR_MS
    anonymous["event_ts"] = record["event_ts"] // HOUR_MS * HOUR_MS
    return anonymous


class RandomIds:
    """Ids that cannot be linked to their records without `key`; a replayed record gets the same id again.

    Keyed BLAKE2b (RFC 7693) of topic id, partition and offset, 16 bytes. The topic's id is part of it, because a recreated
    topic has the same offsets again.
    """

    def __init__(self, key: bytes, topic_id: str, partition: int) -> None:
        self._prefix_hash = blake2b(f"{topic_id}:{partition}:".encode(), key=key, digest_size=16)

    def of(self, offset: int) -> str:
        """The id of the record at this offset."""
        digest = self._prefix_hash.copy()
        digest.update(b"%d" % offset)
        return digest.hexdigest()


def random_id(key: bytes, topic_id: str, partition: int, offset: int) -> str:
    """The id of one record."""
    return RandomIds(key, topic_id, partition).of(offset)
