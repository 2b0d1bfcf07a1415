"""Publishing of contracts: ids for new versions, and derived contracts for every version of their source."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastavro.schema import SchemaParseException, UnknownType

from schemas.contract import Contract, ContractError, Schema, parse
from schemas.files import format_lock, format_schema, read_contracts, read_json, read_lock, write_atomically


def derive(columns: dict[str, Any], source: Schema) -> Schema:
    """Return the contract `columns + all fields of source`. `columns`: an entry of derived.json."""
    return {
        "type": "record",
        "name": columns["name"],
        "namespace": "headwater",
        "doc": columns["doc"],
        "prepended": len(columns["columns"]),
        "fields": [*columns["columns"], *source["fields"]],
    }


def publish(state: dict[str, Any], contracts: Mapping[str, Schema], derived: Mapping[str, Any]) -> list[Contract]:
    """Add new versions of `contracts` and of their derived contracts to the lock `state`; return the new versions."""
    new: list[Contract] = []
    for topic, schema in contracts.items():
        _publish(state, new, topic, schema, None)
    for topic, columns in derived.items():
        if columns["from"] in list(derived)[list(derived).index(topic) :]:
            raise ContractError(f"derived.json: {topic} stands before {columns['from']}, which it is derived from")
        # One derived contract per version of the source: old and new events are processed at the same time.
        for source in [entry for entry in state["contracts"] if entry["topic"] == columns["from"]]:
            _publish(state, new, topic, derive(columns, source["schema"]), source["id"])
    return new


def preview(folder: Path) -> list[Contract]:
    """Return the versions that `lock` would publish."""
    state = copy.deepcopy(read_lock(folder))
    return publish(state, read_contracts(folder), read_json(folder / "derived.json"))


def lock(folder: Path) -> list[Contract]:
    """Allocate ids for new versions and regenerate the derived contracts; return the new versions.

    Safe against a crash (files are replaced atomically, the lock file last); a caller excludes others.
    ContractError, before anything is written, where a contract is no Avro record.
    """
    state = read_lock(folder)
    derived = read_json(folder / "derived.json")
    new = publish(state, read_contracts(folder), derived)
    for topic in derived:
        write_atomically(folder / f"{topic}.avsc", format_schema(current_derived(state, topic)))
    if new:
        write_atomically(folder / "lock.json", format_lock(state))
    return new


def current_derived(state: dict[str, Any], topic: str) -> Schema:
    """Return the newest published contract of a derived topic."""
    latest = max((entry for entry in state["contracts"] if entry["topic"] == topic), key=lambda entry: int(entry["version"]))
    schema: Schema = latest["schema"]
    return schema


def _publish(state: dict[str, Any], new: list[Contract], topic: str, schema: Schema, source_id: int | None) -> None:
    versions = [e for e in state["contracts"] if e["topic"] == topic and e.get("source_id") == source_id]
    if versions and same_schema(versions[-1]["schema"], schema):
        return
    try:
        parse(schema)
    except (SchemaParseException, UnknownType, KeyError, TypeError) as error:
        raise ContractError(f"{topic}.avsc: no Avro record: {type(error).__name__}: {error}") from None
    version = 1 + max((entry["version"] for entry in state["contracts"] if entry["topic"] == topic), default=0)
    entry: dict[str, Any] = {"id": state["next_id"], "topic": topic, "version": version}
    if source_id is not None:
        entry["source_id"] = source_id
    state["contracts"].append({**entry, "schema": schema})
    state["next_id"] += 1
    new.append(Contract(topic, version, entry["id"], schema, source_id))


def same_schema(a: Schema, b: Schema) -> bool:
    """Whether two schemas are equal as JSON text, ignoring white space and the order of keys (false is not 0, 1 is not 1.0)."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
