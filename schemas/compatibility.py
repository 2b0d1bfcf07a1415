"""Compatibility of contract versions: stricter than Avro, because stages prepend columns, strip fields and store records.

The rules imply Avro's (old readers read new records, and new readers old ones) and cover what Avro ignores: order, logical
types, purposes. Apache Avro's checker is the oracle of the tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas.contract import Schema
from schemas.publish import same_schema


@dataclass(frozen=True)
class BreakingChange:
    """One forbidden change. `field` is empty for a change of the whole contract."""

    topic: str
    field: str
    text: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.field}: {self.text}" if self.field else f"{self.topic}: {self.text}"


def breaking_changes(topic: str, old: Schema, new: Schema) -> list[BreakingChange]:
    """Return the forbidden changes between two versions of a contract."""
    changes = [
        BreakingChange(topic, "", f"the record's {key} changed from {old.get(key)!r} to {new.get(key)!r}")
        for key in ("type", "name", "namespace")
        if old.get(key) != new.get(key)
    ]
    before, after = old.get("prepended", 0), new.get("prepended", 0)
    changes += _compare_fields(topic, old["fields"], new["fields"])
    if before or after:
        # Only the order of the prepended columns: the source's contract after them is compared by itself.
        moved = [f["name"] for f in old["fields"][:before] if f in new["fields"][after:]]
        changes += [BreakingChange(topic, name, "moved out of the prepended columns") for name in moved]
        return changes + _compare_order(topic, old["fields"][:before], new["fields"][:after])
    return changes + _compare_order(topic, old["fields"], new["fields"])


def _compare_fields(topic: str, old: Sequence[Schema], new: Sequence[Schema]) -> list[BreakingChange]:
    new_by_name = {field["name"]: field for field in new}
    old_names = {field["name"] for field in old}
    changes: list[BreakingChange] = []
    for field in old:
        if field["name"] in new_by_name:
            changes += _compare_field(topic, field, new_by_name[field["name"]])
        else:
            changes.append(BreakingChange(topic, field["name"], "removed or renamed: readers of stored records still need it"))
    return changes + [
        BreakingChange(topic, field["name"], "new without a default: old records could not be read with it")
        for field in new
        if field["name"] not in old_names and "default" not in field
    ]


def _compare_order(topic: str, old: Sequence[Schema], new: Sequence[Schema]) -> list[BreakingChange]:
    new_names = [field["name"] for field in new]
    common = [field["name"] for field in old if field["name"] in new_names]
    now = [name for name in new_names if name in common]
    changes = [
        BreakingChange(topic, name, "moved: the order of the fields is the order of the bytes")
        for name in [a for a, b in zip(now, common, strict=True) if a != b][:1]
    ]
    last = max((i for i, name in enumerate(new_names) if name in common), default=-1)
    inserted = [name for name in new_names[: last + 1] if name not in common]
    return changes + [
        BreakingChange(topic, name, "inserted: new fields are appended at the end of their block") for name in inserted
    ]


def _compare_field(topic: str, old: Schema, new: Schema) -> list[BreakingChange]:
    name = old["name"]
    changes = []
    if not same_schema({"type": _without_docs(old["type"])}, {"type": _without_docs(new["type"])}):
        changes.append(
            BreakingChange(topic, name, f"type changed from {_without_docs(old['type'])} to {_without_docs(new['type'])}")
        )
    if old.get("purpose") != new.get("purpose"):
        changes.append(
            BreakingChange(
                topic,
                name,
                f"purpose changed from {old.get('purpose')} to {new.get('purpose')}: consent was given for the old one",
            )
        )
    if "default" in old and "default" not in new:
        changes.append(BreakingChange(topic, name, "lost its default"))
    return changes


def _without_docs(avro: Any) -> Any:
    """Return a type without its documentation, with its logical type."""
    if isinstance(avro, list):
        return [_without_docs(branch) for branch in avro]
    if isinstance(avro, dict):
        essential = {key: _without_docs(value) for key, value in avro.items() if key != "doc"}
        return essential["type"] if set(essential) == {"type"} else essential
    return avro


def breaking_lock_changes(old: dict[str, Any], new: dict[str, Any]) -> list[BreakingChange]:
    """Return published versions that are missing or changed: ids are never changed or freed."""
    now = {entry["id"]: entry for entry in new["contracts"]}
    return [
        BreakingChange(
            entry["topic"],
            "",
            f"version {entry['version']} (id {entry['id']}) is published and must stay as it is in lock.json",
        )
        for entry in old["contracts"]
        if not same_schema(entry, now.get(entry["id"], {}))
    ]
