"""Whom somebody who types a command means: a node, or an identifier that becomes one as at the door. Pure."""

import re

from infra.errors import ConfigError
from infra.settings import Settings
from streams.identity.nodes import TIERS, NodeKeys, versions

NODE = re.compile(r"[0-9][0-9a-f]{32}")
HELP = f"A node (33 characters), or KIND=VALUE; kinds: {', '.join(TIERS)}."


def nodes_of(settings: Settings, who: str) -> list[str]:
    """The node; of an identifier those of all versions of the keys, the newest first. ConfigError where it is none; the message
    repeats no more than what was typed."""
    if NODE.fullmatch(who):
        return [who]
    kind, equals, value = who.partition("=")
    if not equals or kind not in TIERS:
        raise ConfigError(f"{who[:40]!r} is neither a node nor KIND=VALUE with one of {', '.join(TIERS)}")
    found = versions(NodeKeys.of(settings), kind, value)
    if not found:
        raise ConfigError(f"this is no {kind}, or one of the values that are never linked")
    return found[::-1]


__all__ = ["HELP", "NODE", "nodes_of"]
