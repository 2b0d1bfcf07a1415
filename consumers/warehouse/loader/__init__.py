"""The loader: brings Kafka's records into ClickHouse, each once."""
