"""Further privacy commands."""
