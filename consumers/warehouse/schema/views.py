"""The warehouse's views, one SQL file each; recreated whenever a column is added, because `*` is resolved at creation."""

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
    """The statements of an SQL file for a database; `{database_name}` is replaced by its unquoted name."""
    text = file.read_text().replace("{database}", ddl.quoted(database)).replace("{database_name}", database)
    return [statement for statement in text.split(";\n") if statement.strip()]
