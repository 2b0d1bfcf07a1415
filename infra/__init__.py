"""Settings, clients, metrics, HTTP and parsing shared by all rooms, and in `ops` the command line and the embedded stack."""
