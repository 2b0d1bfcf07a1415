"""Delivery of accepted records to Kafka, or to the spool while Kafka does not answer."""
