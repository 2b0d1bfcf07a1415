"""The warehouse: the stream's topics into ClickHouse tables, each record once, checked by offset."""

from consumers.warehouse.schema.migrating import migrate

__all__ = ["migrate"]
