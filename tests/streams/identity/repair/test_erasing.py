"""A person taken out of the graph: every step is idempotent, and links made meanwhile are found."""

import pytest

from infra.errors import Retryable
from infra.secrets import Secret
from streams.identity.graph.store import MemoryGraphStore
from streams.identity.graph.union_find import Slot, Write
from streams.identity.nodes import alias
from streams.identity.repair.erasing import (
    Members,
    NotErasable,
    count_unsuppressed,
    extend_members,
    find_holders,
    find_members,
    log_records,
    reveals_links,
    strip_nodes,
    suppress,
)

ALIAS = alias(Secret("for tests only, forty characters long..."))
NOW = 1_795_000_000_000
USER, PHONE, LAPTOP, KIOSK, BELOW, OTHER = (f"{tier}{n:032x}" for n, tier in enumerate((0, 2, 2, 1, 2, 2)))


def put(store: MemoryGraphStore, node: str, parent: str, state: str = "") -> None:
    """Store a logged slot."""
    store.write([Write(node, None, Slot(parent, logged=False, epoch=1 if state else 0, state=state), 0)])
    store.confirm([(node, Slot(parent, logged=False, epoch=1 if state else 0, state=state))])


@pytest.fixture
def store() -> MemoryGraphStore:
    """Phone and laptop of a user, and a cookie under a kiosk that belonged to the user until somebody else used it."""
    filled = MemoryGraphStore()
    for node, parent in ((PHONE, USER), (LAPTOP, PHONE), (BELOW, KIOSK), (USER, PHONE)):
        put(filled, node, parent)
    put(filled, KIOSK, USER, "shared")
    return filled


def test_all_that_is_hers_is_marked_and_the_kiosk_let_go(store: MemoryGraphStore) -> None:
    """All nodes are marked, also under the kiosk; the kiosk stays shared, under nobody. Idempotent."""
    members = find_members(store, LAPTOP, ALIAS)
    assert members == Members((USER, PHONE, LAPTOP, BELOW), tuple(sorted((USER, PHONE, LAPTOP, BELOW, KIOSK))), (KIOSK,))
    assert count_unsuppressed(store, members) == 5
    slots = dict(suppress(store, members, NOW))
    assert slots == {node: Slot(node, False, 1, "erased", NOW) for node in members.nodes} | {
        KIOSK: Slot(KIOSK, False, 2, "shared")
    }
    assert dict(suppress(store, members, NOW)) == slots, "not known to be logged yet"
    store.confirm(slots.items())
    assert dict(suppress(store, members, NOW)) == {node: store.slots[node] for node in members.nodes}
    assert count_unsuppressed(store, members) == 0
    assert {key for key, _ in log_records(slots.items(), NOW)} == {
        f"{node}|{slot.epoch}".encode() for node, slot in slots.items()
    }


def test_what_was_linked_meanwhile_is_found(store: MemoryGraphStore) -> None:
    """A cookie that a worker links meanwhile is erased too."""
    members = find_members(store, LAPTOP, ALIAS)
    suppress(store, members, NOW)
    assert extend_members(store, members, ALIAS) == members
    put(store, OTHER, PHONE)
    assert set(extend_members(store, members, ALIAS).nodes) == {*members.nodes, OTHER}


def test_a_second_time_takes_what_was_stamped_since(store: MemoryGraphStore) -> None:
    """An erased node is alone; its aliases of all epochs are among its profiles."""
    suppress(store, find_members(store, LAPTOP, ALIAS), NOW)
    again = find_members(store, LAPTOP, ALIAS)
    assert again == Members((LAPTOP,), tuple(sorted((LAPTOP, ALIAS(LAPTOP, 1)))), ())
    assert dict(suppress(store, again, NOW + 1))[LAPTOP] == Slot(LAPTOP, False, 2, "erased", NOW + 1)


def test_what_is_nobodys_is_refused(store: MemoryGraphStore) -> None:
    """A shared node cannot be erased."""
    with pytest.raises(NotErasable, match="several persons"):
        find_members(store, KIOSK, ALIAS)


def test_a_slot_that_changes_all_the_time_is_waited_for(store: MemoryGraphStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot that changes in every round is Retryable."""
    monkeypatch.setattr(store, "write", lambda writes: [False] * len(writes))
    with pytest.raises(Retryable):
        suppress(store, find_members(store, LAPTOP, ALIAS), NOW)


def test_what_the_topics_keep(store: MemoryGraphStore) -> None:
    """Merges keep that a node is erased, links keep what they say of other nodes."""
    hers, epochs = frozenset({USER, PHONE}), {PHONE: 2, KIOSK: 2}
    record = {"node": PHONE, "parent": PHONE, "epoch": 2, "state": "erased"}
    assert not reveals_links(record, hers, epochs)
    assert reveals_links(record | {"epoch": 1}, hers, epochs)
    assert reveals_links(record | {"state": ""}, hers, epochs)
    assert reveals_links({"node": KIOSK, "parent": USER, "epoch": 1, "state": "shared"}, hers, epochs)
    assert strip_nodes({"nodes": [USER, PHONE, KIOSK]}, hers) is None
    link = strip_nodes({"nodes": [PHONE, KIOSK, OTHER], "rule": "same_event"}, hers)
    assert link
    assert (link["nodes"], link["rule"]) == ([KIOSK, OTHER], "same_event")
    assert set(find_holders(store, find_members(store, PHONE, ALIAS), [OTHER, PHONE])) == {KIOSK, OTHER}
