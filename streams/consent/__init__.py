"""Consent: the gate. `events.raw` in, `events.consented` out; what a visitor did not allow ends here."""
