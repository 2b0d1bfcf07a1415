"""Verifies that each record has exactly one row, repairs faults, and checks users' views."""

__all__: list[str] = []
