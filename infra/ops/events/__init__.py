"""What became of one event: it is looked for in every layer, and its story is told."""
