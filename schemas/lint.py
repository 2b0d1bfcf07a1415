"""Lint rules for contract files. Each finding names file, line and field."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.boundary import Boundary, ContractViolation
from schemas.compatibility import breaking_changes
from schemas.contract import Contract, ContractError, Schema
from schemas.files import read_contracts, read_json, read_lock
from schemas.publish import derive, preview, same_schema
from schemas.topics import TOPICS

PURPOSES = frozenset({"analytics", "marketing", "personalization", "exempt"})

HEAD = ("event_id", "event_name", "source", "site", "heartbeat", "collector_ts", "region", "signals", "identifiers")
"""First fields of `events.raw`, in this order: stages read them and stop there."""

_PLAIN = frozenset({"string", "bytes", "int", "long", "float", "double", "boolean"})
_LOGICAL = frozenset({None, "timestamp-millis"})
_SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


@dataclass(frozen=True)
class LintFinding:
    """One violation of a rule. `line` is 0 for the whole file."""

    file: str
    line: int
    field: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line or 1}: {self.field + ': ' if self.field else ''}{self.text}"


def lint(folder: Path) -> list[LintFinding]:
    """Return every finding in a contracts folder. ContractError where a file cannot be read."""
    contracts = read_contracts(folder)
    derived = read_json(folder / "derived.json")
    findings: list[LintFinding] = []
    for topic, schema in contracts.items():
        findings += _findings_at(folder / f"{topic}.avsc", _lint_contract(topic, schema))
    for columns in derived.values():
        findings += _findings_at(folder / "derived.json", _lint_fields(columns["columns"]))
    if findings:
        return findings
    raw = contracts.get("events.raw")
    if raw and tuple(field["name"] for field in raw["fields"])[: len(HEAD)] != HEAD:
        findings += _findings_at(
            folder / "events.raw.avsc", [("", f"must begin with the fields that stages read: {', '.join(HEAD)}")]
        )
    findings += _lint_versions(folder, contracts)
    findings += _lint_derived(folder, contracts, derived)
    missing = TOPICS.keys() - contracts.keys() - derived.keys()
    findings += [LintFinding("topics.py", 0, topic, "has no contract: write a file of its name") for topic in sorted(missing)]
    return findings


def _lint_contract(topic: str, schema: Schema) -> Iterator[tuple[str, str]]:
    if topic not in TOPICS:
        yield "", "is no topic of schemas/topics.py: a contract's file is named after its topic"
    if schema.get("type") != "record" or not schema.get("fields"):
        yield "", "must be a record with fields"
        return
    if schema.get("namespace") != "headwater":
        yield "", "the namespace must be headwater"
    if not schema.get("doc"):
        yield "", "the record needs a doc"
    yield from _lint_fields(schema["fields"])


def _lint_fields(fields: list[Schema]) -> Iterator[tuple[str, str]]:
    names: set[str] = set()
    for field in fields:
        name = field.get("name", "")
        if not _SNAKE.fullmatch(name):
            yield name, "the name must be snake_case"
        if name in names:
            yield name, "stands twice"
        names.add(name)
        if field.get("purpose") not in PURPOSES:
            yield name, f"needs a purpose: {', '.join(sorted(PURPOSES))}"
        if not field.get("doc"):
            yield name, "needs a doc"
        problem = _type_problem(field.get("type"))
        if problem:
            yield name, problem
        elif "default" in field and not _default_fits(field):
            yield name, "the default is no value of its type"


def _type_problem(avro: Any) -> str | None:
    if isinstance(avro, dict):
        if avro.get("type") == "map":
            return _type_problem(avro.get("values"))
        if avro.get("type") == "array":
            return _type_problem(avro.get("items"))
        if avro.get("logicalType") not in _LOGICAL:
            return f"the logical type {avro['logicalType']} is not used in this house"
        return _type_problem(avro.get("type"))
    if avro in _PLAIN if isinstance(avro, str) else False:
        return None
    # Unions decode slowly and have no column type; null as an item takes no bytes, so that a corrupt count costs any memory.
    return f"the type {str(avro)[:60]} is not used in this house: plain types, maps and arrays of them, empty for absent"


def _default_fits(field: Schema) -> bool:
    required = {key: value for key, value in field.items() if key != "default"}
    boundary = Boundary(Contract("", 0, 0, {"type": "record", "name": "Default", "fields": [required]}, None))
    try:
        boundary.check({field["name"]: field["default"]})
    except ContractViolation:
        return False
    return True


def _lint_versions(folder: Path, contracts: dict[str, Schema]) -> list[LintFinding]:
    locked: dict[str, Schema] = {entry["topic"]: entry["schema"] for entry in read_lock(folder)["contracts"]}
    findings = [
        finding
        for topic, schema in contracts.items()
        if topic in locked
        for finding in _findings_at(
            folder / f"{topic}.avsc", [(change.field, change.text) for change in breaking_changes(topic, locked[topic], schema)]
        )
    ]
    if findings:
        return findings
    return [
        LintFinding("lock.json", 0, "", f"lacks version {new.version} of {new.topic}: run `headwater contracts lock`")
        for new in preview(folder)
    ]


def _lint_derived(folder: Path, contracts: dict[str, Schema], derived: dict[str, Any]) -> list[LintFinding]:
    findings: list[LintFinding] = []
    schemas = dict(contracts)
    for topic, columns in derived.items():
        schemas[topic] = derive(columns, schemas[columns["from"]])
        names = [field["name"] for field in schemas[topic]["fields"]]
        double = sorted({name for name in names if names.count(name) > 1})
        findings += [LintFinding("derived.json", 0, name, f"stands in {topic} and in its source") for name in double]
        file = folder / f"{topic}.avsc"
        try:
            same = same_schema(read_json(file), schemas[topic])
        except ContractError:
            same = False
        if not same:
            findings.append(LintFinding(file.name, 0, "", "is generated and out of date: run `headwater contracts lock`"))
    return findings


def _findings_at(file: Path, problems: Any) -> list[LintFinding]:
    lines = file.read_text(encoding="utf-8").splitlines()

    def line(name: str) -> int:
        sought = re.compile(rf'"name"\s*:\s*"{re.escape(name)}"')
        return next((i for i, text in enumerate(lines, 1) if name and sought.search(text)), 0)

    return [LintFinding(file.name, line(name), name, text) for name, text in problems]
