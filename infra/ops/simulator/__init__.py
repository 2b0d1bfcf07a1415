"""Simulated traffic over the real HTTP interfaces, and a ledger against which every layer is reconciled."""
