"""Single fields of an event: user agents, regions, nested JSON, repeated JSON keys."""
