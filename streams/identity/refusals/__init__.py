"""Refusals expanded to linked ids, and handed over to ids that are linked later."""
