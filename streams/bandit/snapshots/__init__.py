"""Snapshots: one published probability vector a version, from statistics to Redis."""
