"""What the consent gate remembers of a subject's choices, and where it is stored."""
