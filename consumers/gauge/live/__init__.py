"""Events as they arrive, with what was decided and the row that they became, for whoever listens."""
