"""Consent signals as senders write them, and the rules for choices."""
