"""Consent signals by format: each module reads one, and `evidence.py` has the table of all."""
