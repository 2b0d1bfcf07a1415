"""Rooms whose exit is a Kafka topic, and the machine room that turns a stage into a Faust worker."""
