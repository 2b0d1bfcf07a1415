"""Removes from events what the granted purposes do not cover."""
