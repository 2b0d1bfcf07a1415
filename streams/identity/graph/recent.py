"""Where the newest events of a worker stood, so that retries die while the graph, which knows of a whole day, is away, and
after it lost its last second."""

from collections.abc import Mapping

MAX_EVENTS = 50_000
"""Events of one of two generations; about 200 bytes each."""

Claims = Mapping[bytes, bytes]
"""Name of an event -> its place."""


class RecentEvents:
    """Two generations of events: when the younger one is full, the older one is forgotten."""

    def __init__(self, most: int = MAX_EVENTS) -> None:
        self._most = most
        self._young: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}

    def find_duplicates(self, claims: Claims) -> dict[bytes, bytes]:
        """Events that are known from another place, and that place."""
        young, old = self._young, self._old
        if young.keys().isdisjoint(claims.keys()) and old.keys().isdisjoint(claims.keys()):
            return {}
        return {
            event: holder
            for event, place in claims.items()
            if (holder := young.get(event) or old.get(event)) is not None and holder != place
        }

    def remember(self, claims: Claims, holders: Mapping[bytes, bytes]) -> None:
        """Where these stand now; `held`: those that stand elsewhere, and where."""
        self._young.update(claims)
        self._young.update(holders)
        self._age()

    def _age(self) -> None:
        if len(self._young) > self._most:
            self._old, self._young = self._young, {}
