"""Consent: decides on each event of `events.raw`, and writes to `events.consented` what the visitor allows."""
