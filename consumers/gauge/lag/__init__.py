"""Lag rules and the readings that they judge."""
