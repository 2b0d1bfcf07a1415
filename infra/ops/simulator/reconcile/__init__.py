"""`headwater reconcile`: compares every layer with a ledger."""
