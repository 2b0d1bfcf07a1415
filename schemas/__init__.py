"""What may pass: one Avro contract a topic, the table of topics, and the only code that knows Avro framing."""
