"""Identity nodes: what an identifier becomes at the door. Pure; the collector and the decisions API import it too.

A node is a tier digit and 32 hexadecimal characters of HMAC-SHA256(key[type], type || normalised value), cut to 16 bytes.
Tiers order stability, and of two nodes the smaller string is the stronger one. Each later version of the keys makes a node of
the node before: HMAC-SHA256(key[tier, version], node), cut likewise. So who has the keys can tell that two nodes are one
identifier's, and whoever has only the older key cannot find the newer node.
"""

import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from infra.secrets import Secret
from infra.settings import Settings

TIERS: Mapping[str, str] = {"user": "0", "device": "1", "cookie": "2", "email": "3", "phone": "3"}
"""Identifier type -> tier digit."""

BLOCKED = frozenset(
    {
        "",
        "-",
        "-1",
        "9774d56d682e549c",  # the Android emulator's id, and that of a series of telephones
        "(none)",
        "(not set)",
        "[object object]",
        "anonymous",
        "anon",
        "a@a.com",
        "default",
        "false",
        "guest",
        "id",
        "n/a",
        "noreply@example.com",
        "no@email.com",
        "na",
        "nan",
        "nil",
        "none",
        "not set",
        "not_set",
        "null",
        "test",
        "test@example.com",
        "test@test.com",
        "true",
        "undefined",
        "unknown",
        "user",
    }
)
"""Values that tags send when they have none. One that got through would merge everybody who sends it."""

_ONLY_FILLING = re.compile(r"^[0\-_.:\s]*$")  # zeros, and UUIDs or addresses made of zeros
_EMAIL = re.compile(r"^[^@\s]+@[^@\s]+\.[^@\s.]+$")
_E164 = re.compile(r"^\+[1-9][0-9]{6,14}$")  # ITU-T E.164: a plus and at most 15 digits
_PHONE_FILLING = re.compile(r"[\s().\-/]")

MAX_LENGTH = 512


def normalise(kind: str, value: str) -> str | None:
    """The one spelling of an identifier, or None where it is none. `kind` is a key of `TIERS`."""
    value = value.strip()
    if len(value) > MAX_LENGTH or value.lower() in BLOCKED or _ONLY_FILLING.match(value):
        return None
    if kind == "email":
        value = value.lower()
        return value if _EMAIL.match(value) else None
    if kind == "phone":
        value = _PHONE_FILLING.sub("", value)
        value = "+" + value[2:] if value.startswith("00") else value
        return value if _E164.match(value) else None
    return value


@dataclass(frozen=True)
class NodeKeys:
    """The keys of all versions."""

    first: Mapping[str, bytes]
    """Identifier type -> key of the first version."""
    later: tuple[Mapping[str, bytes], ...] = ()
    """Tier -> key, of each later version."""
    since: int = 1
    """The oldest version that is in use beside the newest."""

    @classmethod
    def derive(cls, secret: Secret, version: int = 1, since: int | None = None) -> "NodeKeys":
        """From the master secret; `since` is `version` unless told."""
        later = range(2, version + 1)
        return cls(
            {kind: secret.derive(f"node/{kind}/v1") for kind in TIERS},
            tuple({tier: secret.derive(f"node/tier{tier}/v{n}") for tier in TIERS.values()} for n in later),
            since or version,
        )

    @classmethod
    def of(cls, settings: Settings) -> "NodeKeys":
        """As they are set. ConfigError without a master secret."""
        return cls.derive(settings.master, settings.node_key_version, settings.node_key_since)

    def renamed(self, combinations: Iterable[Sequence[str]]) -> dict[str, str]:
        """Former node -> the newer one of the same identifier, where a combination (strongest first) has both; of whatever
        versions, because what was sent while both were in use may come later."""
        found: dict[str, str] = {}
        for nodes in combinations if self.later else ():
            for tier in {node[0] for node, other in pairwise(nodes) if node[0] == other[0]}:
                among = {node for node in nodes if node[0] == tier}
                steps = [keys[tier] for keys in self.later]
                found.update((one, newer) for one in among for key in steps if (newer := _cut(key, one)) in among)
        return found

    def later_nodes(self, nodes: Iterable[str]) -> set[str]:
        """What these become under later versions of the keys; of a node it is not known which version made it."""
        found = set[str]()
        for node in nodes:
            for first in range(len(self.later)):
                at = node
                for keys in self.later[first:]:
                    at = _cut(keys[at[0]], at)
                    found.add(at)
        return found

    def newer(self, former: str) -> str:
        """What a node of the version before the newest becomes in that one. LookupError where there is only one version."""
        return _cut(self.later[-1][former[0]], former)


def versions(keys: NodeKeys, kind: str, value: str) -> list[str]:
    """The nodes of one identifier under all versions, oldest first; none where the value is blocked or none of its kind."""
    normal = normalise(kind, value)
    if normal is None:
        return []
    tier = TIERS[kind]
    found = [tier + hmac.digest(keys.first[kind], kind.encode() + normal.encode(), "sha256")[:16].hex()]
    for later in keys.later:
        found.append(_cut(later[tier], found[-1]))
    return found


def node(keys: NodeKeys, kind: str, value: str) -> str | None:
    """The node of one identifier, or None where the value is blocked or no identifier of its kind."""
    found = versions(keys, kind, value)
    return found[-1] if found else None


class Named(NamedTuple):
    """What an event's identifiers become at the door."""

    subject: str | None
    """The strongest node, which keys the event's records until it has a profile; None where nobody is named. Of the versions in
    use it is the oldest one's, so that it stays the same while keys are rotated."""
    nodes: list[str]
    """Strongest first; a node of each version that is in use."""


def named(keys: NodeKeys, identifiers: Iterable[tuple[str, str]]) -> Named:
    """Identifiers (type, value) as the door passes them on."""
    found = [some[keys.since - 1 :] for kind, value in identifiers if (some := versions(keys, kind, value))]
    return Named(min((some[0] for some in found), default=None), sorted({one for some in found for one in some}))


def all_nodes(keys: NodeKeys, identifiers: Iterable[tuple[str, str]]) -> list[str]:
    """Their nodes under all versions, those too that are no longer in use; strongest first."""
    return sorted({found for kind, value in identifiers for found in versions(keys, kind, value)})


def _cut(key: bytes, former: str) -> str:
    return former[0] + hmac.digest(key, former.encode(), "sha256")[:16].hex()


Alias = Callable[[str, int], str]
"""Node, epoch of its slot -> what its events are stamped with while it neither links nor attributes."""


def alias(secret: Secret) -> Alias:
    """An id of the node alone that nobody else's events carry, and another one after each rewrite of its slot."""
    key = secret.derive("alias/v1")
    return lambda node, epoch: node[0] + hmac.digest(key, f"{node}|{epoch}".encode(), "sha256")[:16].hex()
