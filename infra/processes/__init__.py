"""Processes and what they share: children, locks on files, memory, back-off."""
