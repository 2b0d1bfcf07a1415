"""The consent ledger: the stored choices of subjects, its view in Redis, and what a batch writes to it."""
