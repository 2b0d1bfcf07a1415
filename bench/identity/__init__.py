"""`python -m bench.identity`: how well identities are told apart."""
