"""`headwater doctor`: checks of this machine, this installation and the running services."""
