"""Clients of Kafka, Redis, ClickHouse and the schema registry."""
