"""Commands of the warehouse beside `run`, `migrate`, `overrides` and `squash`."""

__all__: list[str] = []
