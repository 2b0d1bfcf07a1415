"""Plain union-find over anything hashable; the root of a component is what was seen of it first."""

from collections.abc import Hashable


class Unions:
    """Things get numbers in the order they are seen; the smallest number of a component is its root."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._parents: list[int] = []

    def number(self, thing: Hashable) -> int:
        """The thing's own number."""
        number = self._numbers.setdefault(thing, len(self._parents))
        if number == len(self._parents):
            self._parents.append(number)
        return number

    def find(self, number: int) -> int:
        """The root of a number."""
        parents = self._parents
        while parents[number] != number:
            parents[number] = number = parents[parents[number]]
        return number

    def join(self, first: int, second: int) -> None:
        """Make one component of two; the older root stays."""
        first, second = self.find(first), self.find(second)
        self._parents[max(first, second)] = min(first, second)
