"""The gauge: how far every reader of the stream is behind, in records and in seconds, and the page that shows it."""
