"""Operation of the whole installation: command line, embedded stack, simulator and checks. The only part that imports rooms."""
