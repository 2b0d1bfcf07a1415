"""Identity: one stable key per person, no person inside. `events.consented` in, `events.resolved` out."""
