"""Plain union-find over anything hashable; the root of a component is what was seen of it first."""

from collections.abc import Hashable


class Unions:
    """Things get numbers in the order they are seen; the smallest number of a component is its root."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._parents: list[int] = []

    def number(self, thing: Hashable) -> int:
        """The thing's own number."""
        found = self._numbers.setdefault(thing, len(self._parents))
        if found == len(self._parents):
            self._parents.append(found)
        return found

    def find(self, number: int) -> int:
        """The root of a number."""
        parents = self._parents
        while parents[number] != number:
            parents[number] = number = parents[parents[number]]
        return number

    def join(self, one: int, other: int) -> None:
        """Make one component of two; the older root stays."""
        one, other = self.find(one), self.find(other)
        self._parents[max(one, other)] = min(one, other)
