"""The identity graph: union-find rules, the store in memory and in Redis, and what guards it."""
