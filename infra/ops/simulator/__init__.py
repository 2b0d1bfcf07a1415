"""The simulator and its ledger: realistic traffic through the real doors, and the proof of what became of it."""
