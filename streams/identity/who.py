"""Whom somebody who types a command means: a node, or an identifier that becomes one as at the door. Pure."""

import re

from infra.errors import ConfigError
from infra.settings import Settings
from streams.identity.nodes import TIERS, NodeKeys, node

NODE = re.compile(r"[0-9][0-9a-f]{32}")
HELP = f"A node (33 characters), or KIND=VALUE; kinds: {', '.join(TIERS)}."


def node_of(settings: Settings, who: str) -> str:
    """The node. ConfigError where it is none; the message repeats no more than what was typed."""
    if NODE.fullmatch(who):
        return who
    kind, equals, value = who.partition("=")
    if not equals or kind not in TIERS:
        raise ConfigError(f"{who[:40]!r} is neither a node nor KIND=VALUE with one of {', '.join(TIERS)}")
    found = node(NodeKeys.derive(settings.master, settings.node_key_version), kind, value)
    if found is None:
        raise ConfigError(f"this is no {kind}, or one of the values that are never linked")
    return found


__all__ = ["HELP", "NODE", "node_of"]
