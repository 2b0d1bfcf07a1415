"""Identity of past rows: overrides, and rewrites after merges and splits."""
