"""The collector: HTTP in, `events.raw` out. It answers only when an event is safe, and never decides about consent."""
