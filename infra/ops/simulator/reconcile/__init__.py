"""`headwater reconcile`: compares every layer of the house with a ledger."""
