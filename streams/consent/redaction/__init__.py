"""Removes from an event what its purposes do not allow."""
