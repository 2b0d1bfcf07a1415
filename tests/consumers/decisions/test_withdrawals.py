"""Withdrawals as a decisions process knows them."""

from pathlib import Path

from consumers.decisions.app import doors, erase_part
from consumers.decisions.withdrawals import Withdrawals
from infra.settings import load_settings
from schemas.registry import Registry
from streams.identity.nodes import NodeKeys, versions

NODES = ["2" + "a" * 32, "2" + "b" * 32]


def test_who_was_erased_is_forgotten() -> None:
    """Nothing of her is left in the process; others' withdrawals stand."""
    known = Withdrawals(Registry(Path(__file__).parents[3] / "schemas"))
    known.add({"purposes": ["personalization"], "nodes": NODES, "withdrawn_ts": 5})
    said = erase_part(known, {"nodes": NODES[:1]})
    assert [known.stands(node, 0) for node in NODES] == [False, True]
    assert NODES[0] not in said


def test_a_withdrawal_stands_when_keys_are_rotated() -> None:
    """Whatever versions are in use, under whichever node of hers she withdrew; and she keeps her group while both are."""
    said = {"purposes": ["personalization"], "withdrawn_ts": 5}
    secret = "for tests only, forty characters long..."
    rotated = load_settings(secret=secret, node_key_version=2)
    both = load_settings(secret=secret, node_key_version=2, node_key_since=1)
    for at in range(2):
        known = Withdrawals(Registry(Path(__file__).parents[3] / "schemas"))
        known.add({**said, "nodes": [versions(NodeKeys.of(rotated), "cookie", "c1")[at]]})
        for settings in (rotated, both):
            assert doors(settings, known).withdrawn("c1", {}, 10)
            assert not doors(settings, known).withdrawn("c2", {}, 10)
    first, second = versions(NodeKeys.of(rotated), "cookie", "c1")
    assert doors(both, known).pseudonym("c1") == first
    assert doors(rotated, known).pseudonym("c1") == second
    assert doors(both, known).pseudonym("undefined") is None
