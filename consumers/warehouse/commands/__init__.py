"""Commands of the warehouse: status, verify, replay, dedupe."""

__all__: list[str] = []
