"""Servers on loopback: Kafka, Redis and ClickHouse as child processes, a schema registry as a thread."""
