"""Lag: time tables, rules, and the readings that they produce."""
