"""Kafka, Redis and ClickHouse on loopback, as child processes."""
