"""Servers on loopback: Kafka, Redis, ClickHouse and a schema registry, each a child process."""
