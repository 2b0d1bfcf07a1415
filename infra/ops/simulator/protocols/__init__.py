"""Requests by each protocol's public documentation."""
