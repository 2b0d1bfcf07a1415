"""Positions of the newest events of a worker: they deduplicate retries while the store, which knows a whole day, is
unavailable."""

from collections.abc import Mapping

MAX_EVENTS = 50_000
"""Events of one of two generations; about 200 bytes each."""

Claims = Mapping[bytes, bytes]
"""Claim name of an event -> its position."""


class RecentEvents:
    """Two generations of events: when the younger one is full, the older one is dropped."""

    def __init__(self, most: int = MAX_EVENTS) -> None:
        self._most = most
        self._young: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}

    def find_duplicates(self, claims: Claims) -> dict[bytes, bytes]:
        """Return events known from another position, with that position."""
        young, old = self._young, self._old
        if young.keys().isdisjoint(claims.keys()) and old.keys().isdisjoint(claims.keys()):
            return {}
        return {
            event: holder
            for event, place in claims.items()
            if (holder := young.get(event) or old.get(event)) is not None and holder != place
        }

    def remember(self, claims: Claims, holders: Mapping[bytes, bytes]) -> None:
        """Add these events; `holders`: positions of those that another record has claimed."""
        self._young.update(claims)
        self._young.update(holders)
        self._age()

    def _age(self) -> None:
        if len(self._young) > self._most:
            self._old, self._young = self._young, {}
