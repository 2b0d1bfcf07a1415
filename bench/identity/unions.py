"""Plain union-find over hashable values; the root of a component is its first value."""

from collections.abc import Hashable


class Unions:
    """Numbers values in the order they appear; the smallest number of a component is its root."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._parents: list[int] = []

    def number(self, value: Hashable) -> int:
        """Return the value's own number."""
        number = self._numbers.setdefault(value, len(self._parents))
        if number == len(self._parents):
            self._parents.append(number)
        return number

    def find(self, number: int) -> int:
        """Return the root of a number."""
        parents = self._parents
        while parents[number] != number:
            parents[number] = number = parents[parents[number]]
        return number

    def join(self, first: int, second: int) -> None:
        """Merge two components; the older root stays."""
        first, second = self.find(first), self.find(second)
        self._parents[max(first, second)] = min(first, second)
