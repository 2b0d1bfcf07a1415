"""The files of a contracts folder: reading with located errors, atomic replacement.

`<topic>.avsc` are the current contracts. `derived.json` names the columns that the consent and identity stages prepend;
the contracts of `events.consented` and `events.resolved` are generated from it. `lock.json` holds every published
version with its id; ids are allocated, never changed or freed.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any, cast

from schemas.contract import ContractError, Schema


def parse_json(name: str, text: str) -> Any:
    """Parse a JSON file's text. ContractError with file, line and column, also for a duplicate key."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) != len(pairs):
            double = next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1)
            raise ContractError(f"{name}: the key {double!r} stands twice in one object")
        return content

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ContractError(f"{name}, line {error.lineno}, column {error.colno}: {error.msg}") from None


def read_json(file: Path) -> Any:
    """Parse a JSON file. ContractError with file, line and column, or for a missing file."""
    try:
        return parse_json(file.name, file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ContractError(f"{file} is missing") from None


def read_lock(folder: Path) -> dict[str, Any]:
    """Return the lock file, or an empty one. ContractError for a duplicate id or version, as after a wrong merge."""
    file = folder / "lock.json"
    return check_lock(read_json(file)) if file.exists() else {"next_id": 1, "contracts": []}


def check_lock(state: Any) -> dict[str, Any]:
    """Return the lock file's content. ContractError where ids or versions are ambiguous."""
    ids: set[int] = set()
    versions: set[tuple[str, int]] = set()
    for entry in state["contracts"]:
        version = (entry["topic"], entry["version"])
        if entry["id"] in ids or version in versions:
            raise ContractError(
                f"lock.json: id {entry['id']} or version {version[1]} of {version[0]} stands twice; after a merge keep the "
                "published side and run `headwater contracts lock` for the other"
            )
        if entry["id"] >= state["next_id"]:
            raise ContractError(f"lock.json: id {entry['id']} is not below next_id {state['next_id']}")
        if entry.get("source_id") is not None and entry["source_id"] not in ids:
            raise ContractError(
                f"lock.json: id {entry['id']} is derived from id {entry['source_id']}, which does not stand before it"
            )
        ids.add(entry["id"])
        versions.add(version)
    return cast(dict[str, Any], state)


def read_contracts(folder: Path) -> dict[str, Schema]:
    """Return the current hand-written contracts: topic -> schema."""
    generated = set(read_json(folder / "derived.json"))
    return {file.stem: read_json(file) for file in sorted(folder.glob("*.avsc")) if file.stem not in generated}


def write_atomically(file: Path, text: str) -> None:
    """Replace a file atomically. A file with this content is not touched."""
    if file.exists() and file.read_text(encoding="utf-8") == text:
        return
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def format_schema(schema: Schema) -> str:
    """Return a contract file's text, one field per line, so that a diff shows fields."""
    head = ",\n  ".join(f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in schema.items() if k != "fields")
    fields = ",\n    ".join(json.dumps(field, ensure_ascii=False) for field in schema["fields"])
    return f'{{\n  {head},\n  "fields": [\n    {fields}\n  ]\n}}\n'


def format_lock(state: dict[str, Any]) -> str:
    """Return the lock file's text, one version per line, so that two branches that both publish conflict in a merge."""
    entries = ",\n    ".join(json.dumps(entry, ensure_ascii=False) for entry in state["contracts"])
    return f'{{\n  "next_id": {state["next_id"]},\n  "contracts": [\n    {entries}\n  ]\n}}\n'
