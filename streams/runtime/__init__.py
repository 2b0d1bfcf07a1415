"""The machine room: turns a stage into a Faust worker over librdkafka, exactly once."""
