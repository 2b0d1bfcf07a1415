"""`headwater contracts`: lint, compare, show and publish the Avro contracts."""

import json
import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.errors import ConfigError
from infra.processes.file_lock import exclusive
from infra.settings import Settings, load_settings
from schemas.compatibility import BreakingChange, breaking_changes, breaking_lock_changes
from schemas.contract import Contract, ContractError, Schema
from schemas.files import check_lock, parse_json, read_contracts, read_json, read_lock
from schemas.lint import lint
from schemas.publish import derive, preview
from schemas.publish import lock as publish_lock
from schemas.registry import Registry, UnknownContract

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Lint, compare, show and publish the Avro contracts.",
    epilog="Example: headwater contracts lint",
    rich_markup_mode=None,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def contracts_settings() -> Settings:
    """Return the settings. ConfigError where the contracts folder holds no contracts."""
    settings = load_settings()
    if not (settings.contracts / "derived.json").exists():
        raise ConfigError(
            f"{settings.contracts} holds no contracts: set HEADWATER_CONTRACTS to a folder with *.avsc and derived.json"
        )
    return settings


@app.command("lint", epilog="Example: headwater contracts lint")
def lint_command(as_json: AsJson = False) -> None:
    """Check the contract files: purposes, names, docs, order, defaults, derivations, lock. Exits 1 on a finding."""
    folder = contracts_settings().contracts
    try:
        findings = [str(finding) for finding in lint(folder)]
    except ContractError as error:
        findings = [str(error)]
    _print_findings(findings, as_json, f"{len(list(folder.glob('*.avsc')))} contracts are in order")


@app.command("breaking", epilog="Example: headwater contracts breaking --against main")
def breaking_command(
    against: Annotated[str, typer.Option(help="Git revision to compare with, e.g. main or v1.2.0.")],
    as_json: AsJson = False,
) -> None:
    """Compare with the contracts of a git revision. Exits 1 on a change that old records or readers would not survive."""
    folder = contracts_settings().contracts
    try:
        changes = breaking_changes_since(folder, against)
    except ContractError as error:
        raise ConfigError(str(error)) from None
    _print_findings([str(change) for change in changes], as_json, f"nothing breaks what {against} published")


@app.command("lock", epilog="Example: headwater contracts lock")
def lock_command(as_json: AsJson = False) -> None:
    """Give new versions their ids in lock.json and write the derived contracts anew. Refuses breaking changes."""
    new = publish(contracts_settings().contracts)
    _print_new(new, as_json)


@app.command("push", epilog="Example: headwater contracts push")
def push_command(as_json: AsJson = False) -> None:
    """Register all versions, derived ones included, in the schema registry if one is set, then lock the new ones."""
    settings = contracts_settings()
    if settings.schema_registry:
        from infra.clients.schema_registry import SchemaRegistry

        registry = SchemaRegistry(settings.schema_registry)
        _refuse_breaking(settings.contracts)
        # A producer uses a new id as soon as it is in the lock file, so the registry must have it before.
        previewed = _preview(settings.contracts)
        registry.register_all([*Registry(settings.contracts).all(), *previewed])
        new = publish(settings.contracts)
        if new != previewed:
            raise ConfigError("somebody else published at the same time: run `headwater contracts push` again")
    else:
        new = publish(settings.contracts)
    _print_new(new, as_json)


@app.command("show", epilog="Example: headwater contracts show events.raw")
def show_command(
    which: Annotated[str, typer.Argument(help="Topic or id; all topics when absent.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show a contract, or the list of all."""
    registry = Registry(contracts_settings().contracts)
    if not which:
        rows = [{"id": c.id, "topic": c.topic, "version": c.version, "source_id": c.source_id} for c in registry.all()]
        lines = [
            f"{r['id']:>5}  {r['topic']} v{r['version']}{' from ' + str(r['source_id']) if r['source_id'] else ''}"
            for r in rows
        ]
        typer.echo(json.dumps(rows) if as_json else "\n".join(lines))
        return
    try:
        contract = registry.by_id(int(which)) if which.isdecimal() else registry.latest(which)
    except UnknownContract as error:
        raise ConfigError(f"{error}; `headwater contracts show` lists what there is") from None
    if as_json:
        typer.echo(
            json.dumps({"id": contract.id, "topic": contract.topic, "version": contract.version, "schema": contract.schema})
        )
        return
    origin = f", derived from {contract.source_id}" if contract.source_id else ""
    typer.echo(f"{contract.topic} version {contract.version}, id {contract.id}{origin}\n{contract.schema['doc']}\n")
    for field in contract.schema["fields"]:
        kind = field["type"] if isinstance(field["type"], str) else json.dumps(field["type"])
        typer.echo(f"  {field['name']:<18} {field['purpose']:<16} {kind}\n{'':<21}{field['doc']}")


@app.command("ddl", epilog="Example: headwater contracts ddl --plan")
def ddl_command(
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what would run; the warehouse itself runs it at its start.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the ClickHouse statements that the contracts need: tables, and columns that the newest versions added."""
    if not plan:
        raise ConfigError("`headwater contracts ddl` only plans: add --plan; `headwater warehouse` applies it when it starts")
    settings = contracts_settings()
    statements = ddl_statements(Registry(settings.contracts), settings.clickhouse_database)
    typer.echo(json.dumps({"statements": statements}) if as_json else "\n\n".join(f"{statement};" for statement in statements))


def ddl_statements(registry: Registry, database: str) -> list[str]:
    """Return CREATE TABLE by each contract's first version, then ALTER TABLE for the columns of later versions."""
    from consumers.warehouse.schema.ddl import add_columns, create_table, missing_columns
    from consumers.warehouse.schema.tables import TABLES

    statements = []
    for topic, table in TABLES.items():
        versions = sorted((c for c in registry.all() if c.topic == topic), key=lambda c: c.version)
        columns: set[str] = set()
        for contract in versions:
            if not columns:
                statements.append(create_table(contract, table, database))
            elif missing := missing_columns(contract, columns):
                statements.append(add_columns(table, missing, database))
            columns |= set(contract.names)
    return statements


def publish(folder: Path) -> list[Contract]:
    """Lock new versions; return them. ConfigError for a breaking change or an invalid file."""
    _refuse_breaking(folder)
    try:
        with exclusive(folder):
            return publish_lock(folder)
    except ContractError as error:
        raise ConfigError(str(error)) from None
    except PermissionError as error:
        raise ConfigError(
            f"{error.filename} cannot be written: set HEADWATER_CONTRACTS to a checkout's schemas folder"
        ) from None


def _preview(folder: Path) -> list[Contract]:
    try:
        return preview(folder)
    except ContractError as error:
        raise ConfigError(str(error)) from None


def _refuse_breaking(folder: Path) -> None:
    try:
        locked: dict[str, Schema] = {entry["topic"]: entry["schema"] for entry in read_lock(folder)["contracts"]}
        changes = _compare_schemas(locked, _current_schemas(folder))
    except ContractError as error:
        raise ConfigError(str(error)) from None
    if changes:
        raise ConfigError("refused, nothing was published: " + "; ".join(str(change) for change in changes))


def _current_schemas(folder: Path) -> dict[str, Schema]:
    """Topic -> schema by the hand-written files, derived contracts generated from them."""
    schemas = read_contracts(folder)
    for topic, columns in read_json(folder / "derived.json").items():
        schemas[topic] = derive(columns, schemas[columns["from"]])
    return schemas


def _compare_schemas(old: dict[str, Schema], new: dict[str, Schema]) -> list[BreakingChange]:
    removals = [
        BreakingChange(topic, "", "the contract is gone, but its topic may still hold records")
        for topic in sorted(old.keys() - new.keys())
    ]
    return removals + [
        change for topic in sorted(old.keys() & new.keys()) for change in breaking_changes(topic, old[topic], new[topic])
    ]


def breaking_changes_since(folder: Path, revision: str) -> list[BreakingChange]:
    """Return forbidden changes of the contracts and the lock since a git revision. ConfigError where git cannot read it."""
    files = _files_at(folder, revision)
    names = [name for name in files if name.endswith(".avsc")]
    if not names:
        raise ConfigError(f"revision {revision} has no contracts in {folder}")
    old = {name.removesuffix(".avsc"): _content_at(folder, revision, files[name]) for name in names}
    changes = _compare_schemas(old, _current_schemas(folder))
    if "lock.json" in files:
        changes += breaking_lock_changes(check_lock(_content_at(folder, revision, files["lock.json"])), read_lock(folder))
    return changes


def _files_at(folder: Path, revision: str) -> dict[str, str]:
    """Return name -> path in the repository of a revision's contract files, which may lie in another folder there."""
    tracked = _git(folder, revision, "ls-tree", "-r", "--full-tree", "--name-only", revision).splitlines()
    current = _git(folder, revision, "rev-parse", "--show-prefix").strip()
    folders = {path.removesuffix("derived.json") for path in tracked if Path(path).name == "derived.json"}
    then = current if current in folders or len(folders) != 1 else folders.pop()
    return {Path(path).name: path for path in tracked if path == then + Path(path).name}


def _content_at(folder: Path, revision: str, path: str) -> Any:
    return parse_json(f"{revision}:{Path(path).name}", _git(folder, revision, "show", f"{revision}:{path}"))


def _git(folder: Path, revision: str, *arguments: str) -> str:
    if revision.startswith("-"):
        raise ConfigError(f"{revision!r} is no git revision")
    try:
        run = subprocess.run(  # noqa: S603 - arguments are a list, the revision begins with no dash
            ["git", "-C", str(folder), *arguments],  # noqa: S607 - the user's git
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise ConfigError("git is not installed: `contracts breaking` compares with a revision of it") from None
    if run.returncode:
        if "not a git repository" in run.stderr:
            raise ConfigError(
                f"{folder} is in no git checkout: run this in one, or set HEADWATER_CONTRACTS to its contracts folder"
            )
        reason = run.stderr.strip().splitlines()
        raise ConfigError(f"git does not know revision {revision} here: {reason[-1] if reason else 'no reason given'}")
    return run.stdout


def _print_findings(problems: list[str], as_json: bool, praise: str) -> None:
    if as_json:
        typer.echo(json.dumps({"findings": problems}))
    else:
        for line in problems or [praise]:
            typer.echo(line)
    if problems:
        raise typer.Exit(1)


def _print_new(new: list[Contract], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"new": [{"topic": c.topic, "version": c.version, "id": c.id} for c in new]}))
        return
    for contract in new:
        typer.echo(f"{contract.topic} version {contract.version} has id {contract.id}")
    if not new:
        typer.echo("nothing new: every contract has its id")
