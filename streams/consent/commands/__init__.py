"""Further commands of the consent gate."""
