"""Further commands of the collector."""
