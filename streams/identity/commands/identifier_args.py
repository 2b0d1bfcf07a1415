"""Resolves a command's argument to nodes: a node, or an identifier that is normalised as in the collector. Pure."""

import re

from infra.errors import ConfigError
from infra.settings import Settings
from streams.identity.nodes import TIERS, NodeKeys, versions

NODE = re.compile(r"[0-9][0-9a-f]{32}")
HELP = f"A node (33 characters), or KIND=VALUE; kinds: {', '.join(TIERS)}."


def nodes_of(settings: Settings, identifier: str) -> list[str]:
    """Return the node, or an identifier's nodes under all key versions, newest first.

    ConfigError where it is neither; the message repeats at most 40 characters of the argument.
    """
    if NODE.fullmatch(identifier):
        return [identifier]
    kind, equals, value = identifier.partition("=")
    if not equals or kind not in TIERS:
        raise ConfigError(f"{identifier[:40]!r} is neither a node nor KIND=VALUE with one of {', '.join(TIERS)}")
    nodes = versions(NodeKeys.of(settings), kind, value)
    if not nodes:
        raise ConfigError(f"this is no {kind}, or one of the values that are never linked")
    return nodes[::-1]


__all__ = ["HELP", "NODE", "nodes_of"]
