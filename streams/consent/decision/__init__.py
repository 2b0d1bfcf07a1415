"""Decisions about one event: rules, a cache of encoded decisions, and the audit log."""
