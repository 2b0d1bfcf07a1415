"""Waiting for others: locks between processes, and pauses before another try."""
