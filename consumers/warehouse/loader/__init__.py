"""The loader: from Kafka into ClickHouse, each record once."""
