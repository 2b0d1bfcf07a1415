"""The gauge: measures the lag of every consumer group in records and seconds, and serves the ops page."""
