"""Where accepted records go: Kafka, or the spool while Kafka does not answer."""
