"""The contracts of one folder: every version ever published, its id, and which id a stage writes for an id it read.

Files: `<topic>.avsc` are the current contracts. `derived.json` names the columns that the consent and identity stages
prepend; the contracts of `events.consented` and `events.resolved` are generated from it. `lock.json` holds every
published version with its id; ids are only ever allocated, never changed or freed.
"""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import fastavro

Schema = dict[str, Any]

WIRE_MAGIC = b"\x00"  # Confluent wire format: magic byte, 4-byte big-endian schema id, datum


class UnknownContract(LookupError):
    """No version with this id or of this topic, even after reading the folder again."""


class ContractError(ValueError):
    """A contract file is wrong; the message names the file, the line where there is one, and the field."""


@dataclass(frozen=True)
class Contract:
    """One published version of one topic's contract."""

    topic: str
    version: int
    id: int
    schema: Schema
    source_id: int | None
    """Id of the contract that this one was derived from by prepending columns; None for hand-written ones."""

    @cached_property
    def parsed(self) -> Any:
        """The schema as fastavro wants it, timestamps as plain integers (milliseconds UTC)."""
        return fastavro.parse_schema(physical(self.schema), _write_hint=False)

    @cached_property
    def header(self) -> bytes:
        """The five bytes before each datum."""
        return WIRE_MAGIC + self.id.to_bytes(4, "big")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Field names in order."""
        return tuple(field["name"] for field in self.schema["fields"])

    def up_to(self, last_field: str) -> Any:
        """The parsed schema of the fields up to and including `last_field`."""
        end = self.names.index(last_field) + 1
        return self._part("Head", self.schema["fields"][:end])

    def columns(self) -> Any:
        """The parsed schema of the prepended columns alone (derived contracts only)."""
        return self._part("Columns", self.schema["fields"][: self.schema["prepended"]])

    def _part(self, name: str, fields: list[Schema]) -> Any:
        part = {"type": "record", "name": name, "namespace": "headwater", "fields": fields}
        return fastavro.parse_schema(physical(part), _write_hint=False)


def physical(schema: Any) -> Any:
    """The schema without logical types: the same bytes, but integers in and out, which is faster and never loses a bit."""
    if isinstance(schema, dict):
        return {key: physical(value) for key, value in schema.items() if key != "logicalType"}
    if isinstance(schema, list):
        return [physical(item) for item in schema]
    return schema


class Registry:
    """Contracts by id and by topic, read from a folder; an unknown id makes it read the lock file again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_id: dict[int, Contract] = {}
        self._latest: dict[str, Contract] = {}
        self._derived: dict[tuple[int, str], Contract] = {}
        self._read_at: int = -1
        self.reload()

    def reload(self) -> bool:
        """Read the lock file if it has changed; True if it had."""
        file = self.folder / "lock.json"
        stamp = file.stat().st_mtime_ns if file.exists() else 0
        if stamp == self._read_at:
            return False
        for entry in read_lock(self.folder)["contracts"]:
            if entry["id"] not in self._by_id:
                contract = Contract(entry["topic"], entry["version"], entry["id"], entry["schema"], entry.get("source_id"))
                self._by_id[contract.id] = contract
                if contract.source_id is not None:
                    # A stage's own columns may change too: the newest contract derived from an id is what it writes.
                    self._derived[contract.source_id, contract.topic] = contract
        for contract in self._by_id.values():
            if contract.version >= self._latest.get(contract.topic, contract).version:
                self._latest[contract.topic] = contract
        self._read_at = stamp
        return True

    def by_id(self, schema_id: int) -> Contract:
        """The contract with this id. UnknownContract if the folder has none."""
        contract = self._by_id.get(schema_id)
        if contract is None:
            self.reload()
            contract = self._by_id.get(schema_id)
        if contract is None:
            raise UnknownContract(f"no contract has id {schema_id}")
        return contract

    def latest(self, topic: str) -> Contract:
        """The newest contract of a topic. UnknownContract if it has none."""
        if topic not in self._latest:
            self.reload()
        try:
            return self._latest[topic]
        except KeyError:
            raise UnknownContract(f"no contract for topic {topic}") from None

    def derived(self, source_id: int, topic: str) -> Contract:
        """What a stage writes to `topic` for a record it read with `source_id`: its lineage, never simply the latest."""
        contract = self._derived.get((source_id, topic))
        if contract is None:
            self.reload()
            contract = self._derived.get((source_id, topic))
        if contract is None:
            raise UnknownContract(f"no contract of {topic} is derived from id {source_id}")
        return contract

    def all(self) -> list[Contract]:
        """Every version, by id."""
        self.reload()
        return [self._by_id[i] for i in sorted(self._by_id)]


def read_json(file: Path) -> Any:
    """Parse a JSON file; ContractError names file, line and column."""
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ContractError(f"{file.name}, line {error.lineno}, column {error.colno}: {error.msg}") from None


def read_lock(folder: Path) -> dict[str, Any]:
    """The lock file, or an empty one."""
    file = folder / "lock.json"
    return cast(dict[str, Any], read_json(file)) if file.exists() else {"next_id": 1, "contracts": []}


def read_contracts(folder: Path) -> dict[str, Schema]:
    """The current hand-written contracts: topic -> schema."""
    generated = set(read_json(folder / "derived.json"))
    return {file.stem: read_json(file) for file in sorted(folder.glob("*.avsc")) if file.stem not in generated}


def derive(columns: dict[str, Any], source: Schema) -> Schema:
    """The contract `columns + all fields of source` (an entry of derived.json and its source's schema)."""
    return {
        "type": "record",
        "name": columns["name"],
        "namespace": "headwater",
        "doc": columns["doc"],
        "prepended": len(columns["columns"]),
        "fields": [*columns["columns"], *source["fields"]],
    }


def lock(folder: Path) -> list[Contract]:
    """Publish what has changed: allocate ids for new versions, regenerate the derived contracts. Returns the new ones.

    Safe against a second caller (file lock) and a crash (the lock file is replaced whole).
    """
    with _only_writer(folder):
        state = read_lock(folder)
        derived = read_json(folder / "derived.json")
        new: list[Contract] = []
        for topic, schema in read_contracts(folder).items():
            _publish(state, new, topic, schema, None)
        for topic, columns in derived.items():
            # One derived contract for every version of the source: old and new events flow side by side.
            for source in [entry for entry in state["contracts"] if entry["topic"] == columns["from"]]:
                schema = derive(columns, source["schema"])
                _publish(state, new, topic, schema, source["id"])
            latest = [entry for entry in state["contracts"] if entry["topic"] == topic][-1]
            write_atomically(folder / f"{topic}.avsc", format_schema(latest["schema"]))
        if new:
            write_atomically(folder / "lock.json", _format_lock(state))
        return new


def _publish(state: dict[str, Any], new: list[Contract], topic: str, schema: Schema, source_id: int | None) -> None:
    versions = [e for e in state["contracts"] if e["topic"] == topic and e.get("source_id") == source_id]
    if versions and versions[-1]["schema"] == schema:
        return
    version = 1 + sum(entry["topic"] == topic for entry in state["contracts"])
    entry: dict[str, Any] = {"id": state["next_id"], "topic": topic, "version": version}
    if source_id is not None:
        entry["source_id"] = source_id
    state["contracts"].append({**entry, "schema": schema})
    state["next_id"] += 1
    new.append(Contract(topic, version, entry["id"], schema, source_id))


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_atomically(file: Path, text: str) -> None:
    """Replace a file whole: readers see the old or the new one, never a part."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    with os.fdopen(handle, "w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    Path(name).chmod(0o644)
    Path(name).replace(file)


def format_schema(schema: Schema) -> str:
    """A contract file's text: one field a line, so that a diff shows fields."""
    head = ",\n  ".join(f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in schema.items() if k != "fields")
    fields = ",\n    ".join(json.dumps(field, ensure_ascii=False) for field in schema["fields"])
    return f'{{\n  {head},\n  "fields": [\n    {fields}\n  ]\n}}\n'


def _format_lock(state: dict[str, Any]) -> str:
    entries = ",\n    ".join(json.dumps(entry, ensure_ascii=False) for entry in state["contracts"])
    return f'{{\n  "next_id": {state["next_id"]},\n  "contracts": [\n    {entries}\n  ]\n}}\n'
