"""The protocols of the collector: each module turns one protocol's payload into events."""
