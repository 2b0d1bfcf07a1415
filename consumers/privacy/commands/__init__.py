"""Privacy commands beside `erase` and `export`."""
