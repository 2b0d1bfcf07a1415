"""Privacy requests: read beside a stage or a consumer, done in part by each, acknowledged."""
