"""The stream runtime: runs a stage as a Faust worker over librdkafka, exactly once."""
