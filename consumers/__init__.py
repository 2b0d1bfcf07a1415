"""Rooms whose exit leaves Kafka: the warehouse, the decisions API and the gauge."""
