"""The whole installation on one machine: real Kafka, Redis and ClickHouse, and every service, supervised in one process."""
