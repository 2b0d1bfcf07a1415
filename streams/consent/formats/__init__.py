"""Consent signals by format: each module reads one format; the signals of an event are read by all of them."""
