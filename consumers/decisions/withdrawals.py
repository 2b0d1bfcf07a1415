"""Who has withdrawn consent to personalization: what `privacy.requests` says, kept in memory by every process."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from schemas.codec import Undecodable, UnknownContract, decode
from schemas.registry import Registry

PURPOSE = "personalization"
MOST_NODES = 1_000_000
"""Past it the oldest withdrawals are forgotten here; the consent gate does not forget them."""


class Withdrawals:
    """Node -> time of its newest withdrawal, milliseconds UTC."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._since: OrderedDict[str, int] = OrderedDict()

    def take(self, records: Iterable[tuple[bytes | None, bytes | None]]) -> None:
        """Records of `privacy.requests`. What cannot be read is no request; the clerk makes a dead letter of it."""
        for _, value in records:
            try:
                self.add(decode(self._registry, value or b"")[1])
            except (Undecodable, UnknownContract):
                continue

    def add(self, request: Mapping[str, Any]) -> None:
        """One request."""
        if PURPOSE not in request["purposes"]:
            return
        for node in request["nodes"]:
            self._since[node] = max(self._since.get(node, 0), request["withdrawn_ts"])
        while len(self._since) > MOST_NODES:
            self._since.popitem(last=False)

    def forget(self, nodes: Iterable[str]) -> None:
        """A person who was erased: what she says from now on is said by somebody new."""
        for node in nodes:
            self._since.pop(node, None)

    def stands(self, node: str, chosen_ts: int) -> bool:
        """Whether a withdrawal of this node is not older than the choice that the page reports (0 = it says no time)."""
        since = self._since.get(node)
        return since is not None and chosen_ts <= since
