"""Withdrawals as a decisions process knows them."""

from pathlib import Path

from consumers.decisions.app import erase_part
from consumers.decisions.withdrawals import Withdrawals
from schemas.registry import Registry

NODES = ["2" + "a" * 32, "2" + "b" * 32]


def test_who_was_erased_is_forgotten() -> None:
    """Nothing of her is left in the process; others' withdrawals stand."""
    known = Withdrawals(Registry(Path(__file__).parents[3] / "schemas"))
    known.add({"purposes": ["personalization"], "nodes": NODES, "withdrawn_ts": 5})
    said = erase_part(known, {"nodes": NODES[:1]})
    assert [known.stands(node, 0) for node in NODES] == [False, True]
    assert NODES[0] not in said
