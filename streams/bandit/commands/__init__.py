"""Further commands of the bandit."""
