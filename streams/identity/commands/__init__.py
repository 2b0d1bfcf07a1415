"""Further commands of identity resolution."""
