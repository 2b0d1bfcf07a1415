"""Views for people, an SQL file each; created again whenever a column is added, since `*` is resolved when a view is made."""

from pathlib import Path

from consumers.warehouse.schema import ddl
from consumers.warehouse.store import Store

FOLDER = Path(__file__).with_name("views")


def create_views(store: Store) -> None:
    """Create or replace every view of `views/`. Retryable."""
    for file in sorted(FOLDER.glob("*.sql")):
        for statement in statements(file, store.database):
            store.command(statement)


def statements(file: Path, database: str) -> list[str]:
    """The statements of an SQL file for one database; `{database_name}` is its bare name, for functions that take it."""
    text = file.read_text().replace("{database}", ddl.quoted(database)).replace("{database_name}", database)
    return [statement for statement in text.split(";\n") if statement.strip()]
