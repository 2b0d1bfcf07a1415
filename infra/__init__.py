"""The cellar: settings, clients, metric names, the command line and the embedded stack. It has no opinion about events."""
