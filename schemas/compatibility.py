"""What a new version of a contract may change: stricter than Avro, because the stream also prepends, strips and stores.

Every rule keeps Avro's own (an old reader reads new records and a new one old records), and adds what Avro does not
look at: order, logical types, purposes. Apache Avro's checker is the oracle of the tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas.contract import Schema
from schemas.publish import same_schema


@dataclass(frozen=True)
class Change:
    """One forbidden change. `field` is empty where the whole contract is meant."""

    topic: str
    field: str
    text: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.field}: {self.text}" if self.field else f"{self.topic}: {self.text}"


def breaking(topic: str, old: Schema, new: Schema) -> list[Change]:
    """The forbidden changes between two versions of a contract; empty if the new one may follow the old one."""
    changes = [
        Change(topic, "", f"the record's {key} changed from {old.get(key)!r} to {new.get(key)!r}")
        for key in ("type", "name", "namespace")
        if old.get(key) != new.get(key)
    ]
    # Prepended columns and the source's fields are two lists: each may only grow at its end.
    before, after = old.get("prepended", 0), new.get("prepended", 0)
    changes += _fields(topic, "the prepended columns", old["fields"][:before], new["fields"][:after])
    changes += _fields(topic, "the fields", old["fields"][before:], new["fields"][after:])
    return changes


def _fields(topic: str, where: str, old: Sequence[Schema], new: Sequence[Schema]) -> list[Change]:
    new_by_name = {field["name"]: field for field in new}
    old_names = [field["name"] for field in old]
    changes = [
        Change(topic, name, "removed or renamed: readers of stored records still need it")
        for name in old_names
        if name not in new_by_name
    ]
    for field in old:
        if field["name"] in new_by_name:
            changes += _field(topic, field, new_by_name[field["name"]])
    kept = [name for name in old_names if name in new_by_name]
    order = [field["name"] for field in new if field["name"] in set(old_names)]
    if order != kept:
        moved = next(a for a, b in zip(order, kept, strict=True) if a != b)
        changes.append(Change(topic, moved, f"moved: the order of {where} is the order of the bytes"))
    last_old = max((i for i, field in enumerate(new) if field["name"] in set(old_names)), default=-1)
    for i, field in enumerate(new):
        if field["name"] in set(old_names):
            continue
        if i < last_old:
            changes.append(Change(topic, field["name"], f"inserted: new ones are appended at the end of {where}"))
        if "default" not in field:
            changes.append(Change(topic, field["name"], "new without a default: old records could not be read with it"))
    return changes


def _field(topic: str, old: Schema, new: Schema) -> list[Change]:
    name = old["name"]
    changes = []
    if not same_schema({"type": _plain(old["type"])}, {"type": _plain(new["type"])}):
        changes.append(Change(topic, name, f"type changed from {_plain(old['type'])} to {_plain(new['type'])}"))
    if old.get("purpose") != new.get("purpose"):
        changes.append(
            Change(
                topic,
                name,
                f"purpose changed from {old.get('purpose')} to {new.get('purpose')}: consent was given for the old one",
            )
        )
    if "default" in old and "default" not in new:
        changes.append(Change(topic, name, "lost its default"))
    return changes


def _plain(avro: Any) -> Any:
    """A type without its documentation, with its logical type."""
    if isinstance(avro, list):
        return [_plain(branch) for branch in avro]
    if isinstance(avro, dict):
        kept = {key: _plain(value) for key, value in avro.items() if key != "doc"}
        return kept["type"] if set(kept) == {"type"} else kept
    return avro


def breaking_lock(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Published versions that are gone or another one now: ids are never changed or freed."""
    now = {entry["id"]: entry for entry in new["contracts"]}
    return [
        Change(
            entry["topic"],
            "",
            f"version {entry['version']} (id {entry['id']}) is published and must stay as it is in lock.json",
        )
        for entry in old["contracts"]
        if not same_schema(entry, now.get(entry["id"], {}))
    ]
