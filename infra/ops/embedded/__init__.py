"""The whole house on one machine: real Kafka, Redis and ClickHouse, started and supervised by us."""
