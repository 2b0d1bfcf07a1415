"""Past rows: identity overrides, and rewrites after merges and splits."""
