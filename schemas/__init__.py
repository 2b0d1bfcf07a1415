"""One Avro contract per topic, the table of topics, and the only code that knows Avro framing."""
