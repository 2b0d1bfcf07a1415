"""The proof that each record has its one row, the repairs of what it finds, and the checks of users' views."""

__all__: list[str] = []
