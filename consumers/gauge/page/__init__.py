"""The ops page."""
