"""Clients of Kafka, Redis and the schema registry."""
