"""Migrates the database: tables from the contracts, then the numbered SQL files that were not applied yet, then the views."""

from pathlib import Path

from consumers.warehouse.schema import ddl
from consumers.warehouse.schema.tables import TABLES
from consumers.warehouse.schema.views import create_views, statements
from consumers.warehouse.store import Store
from infra.errors import ConfigError, Retryable
from infra.settings import Settings
from schemas.registry import Registry

FOLDER = Path(__file__).with_name("migrations")


def migrate(settings: Settings) -> list[str]:
    """Create what is missing; return the changes, none on the second call. ConfigError where ClickHouse is away."""
    store = Store(settings)
    try:
        return apply_schema(store, Registry(settings.contracts))
    except Retryable as error:
        raise ConfigError(f"{error}. Is it running (`headwater up` starts one), and is HEADWATER_CLICKHOUSE right?") from error
    finally:
        store.close()


def apply_schema(store: Store, registry: Registry) -> list[str]:
    """As `migrate`, over an open connection. Retryable where ClickHouse is away."""
    changes = [*_create_tables(store, registry), *_apply_files(store)]
    create_views(store)
    return changes


def _create_tables(store: Store, registry: Registry) -> list[str]:
    database = ddl.quoted(store.database)
    store.command(f"CREATE DATABASE IF NOT EXISTS {database} ENGINE = Atomic")
    existing: dict[str, set[str]] = {}
    for table, column in store.rows(f"SELECT table, name FROM system.columns WHERE database = '{store.database}'"):  # noqa: S608 - ours
        existing.setdefault(table, set()).add(column)
    changes = []
    for table in TABLES.values():
        contract = registry.latest(table.topic)
        if table.name not in existing:
            store.command(ddl.create_table(contract, table, store.database))
            changes.append(f"created {table.name}")
        elif missing := ddl.missing_columns(contract, existing[table.name]):
            store.command(ddl.add_columns(table, missing, store.database))
            changes.append(f"added {len(missing)} columns to {table.name}")
    return changes


def _apply_files(store: Store) -> list[str]:
    database = ddl.quoted(store.database)
    store.command(
        f"CREATE TABLE IF NOT EXISTS {database}.migrations (name String, applied DateTime DEFAULT now()) "
        "ENGINE = MergeTree ORDER BY name"
    )
    applied = {row[0] for row in store.rows(f"SELECT name FROM {database}.migrations")}  # noqa: S608 - the installation's database
    applied_now = []
    for file in sorted(FOLDER.glob("*.sql")):
        if file.name in applied:
            continue
        # Statements are repeatable (IF NOT EXISTS, OR REPLACE): a file that was applied in part is applied again as a whole.
        for statement in statements(file, store.database):
            store.command(statement)
        store.command(f"INSERT INTO {database}.migrations (name) VALUES ('{file.name}')")  # noqa: S608 - ours
        applied_now.append(f"applied {file.name}")
    return applied_now
