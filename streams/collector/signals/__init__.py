"""Consent signals and choices as senders write them."""
