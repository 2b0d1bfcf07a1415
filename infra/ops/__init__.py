"""What operates the whole house and therefore knows its rooms: command line, embedded stack, simulator, checks."""
