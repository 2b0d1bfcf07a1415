"""Single fields of an event: user agents, places, nested JSON."""
