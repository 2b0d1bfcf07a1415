"""The warehouse: loads the stream's topics into ClickHouse tables, each record once, verified by offset."""

from consumers.warehouse.schema.migrating import migrate

__all__ = ["migrate"]
