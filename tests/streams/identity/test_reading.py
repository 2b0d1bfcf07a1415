"""Events read by slices equal decoded events, cached or not."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import decode
from schemas.fast.head_columns import MIN_BATCH
from streams.identity.graph.slots import SlotLog, slot_of, slot_record
from streams.identity.graph.store import LONGEST_CLAIM
from streams.identity.graph.union_find import Slot
from streams.identity.reading import BatchReader
from streams.runtime.stage import Outcome
from tests.streams.identity.line import REGISTRY, T, event
from tests.streams.identity.test_stage import batch

TEXT = st.one_of(st.sampled_from(["a", "b"]), st.text(max_size=200))
NODE = st.from_regex(r"[0-3][0-9a-f]{32}", fullmatch=True)
HEADS = st.fixed_dictionaries({
    "consent_outcome": st.sampled_from(["pass", "strip", "anonymise"]), "consent_purposes": st.integers(0, 200),
    "consent_reasons": TEXT, "event_id": st.one_of(TEXT, st.just("x" * 9_000)), "event_name": TEXT, "source": TEXT,
    "site": TEXT,
    "heartbeat": st.booleans(), "imported": st.booleans(),
    "collector_ts": st.integers(0, 2 * T), "signals": st.dictionaries(TEXT, TEXT, max_size=3),
})  # fmt: skip
READER, SLOTS = BatchReader(REGISTRY), SlotLog(REGISTRY)


@given(HEADS, st.lists(st.one_of(NODE, st.just("1" + "a" * 32)), max_size=70))
def test_events_are_what_decoding_says(head: dict[str, Any], nodes: list[str]) -> None:
    """With any texts and number of nodes, alone and in a batch; equal slices share one identifier set."""
    value = event(0, nodes, **head)
    first, second = READER.read(Outcome(), batch([value, value]), 0)
    assert first.identifiers is second.identifiers
    many = READER.read(Outcome(), batch([value] * MIN_BATCH), 0)
    assert [record.position for record in many] == list(range(MIN_BATCH))
    assert {record._replace(position=0) for record in many} == {first}
    linkable = head["consent_purposes"] & 1 and not head["heartbeat"]
    assert first.identifiers.nodes == (tuple(sorted(nodes)) if linkable else ())
    assert (first.event_id.decode(), first.collector_ts) == (head["event_id"], head["collector_ts"])
    origin = first.origin
    assert (origin.event_name, origin.source, origin.heartbeat) == (head["event_name"], head["source"], head["heartbeat"])
    assert first.cell("resolved").outcome == ("imported:resolved" if head["imported"] else "resolved")
    assert first.purposes == head["consent_purposes"]
    single = head["heartbeat"] or head["consent_outcome"] == "anonymise"
    claim = f"{head['source']}:{head['event_name']}\0{head['event_id']}".encode()
    assert len(first.claim) <= LONGEST_CLAIM
    assert first.claim == (b"" if single else claim) or len(claim) > LONGEST_CLAIM


@given(st.lists(st.one_of(NODE, st.text(max_size=40)), min_size=1, max_size=4))
def test_what_is_no_node_is_dead(identifiers: list[str]) -> None:
    """One invalid node makes the record a dead letter."""
    outcome = Outcome()
    events = READER.read(outcome, batch([event(0, identifiers)]), 0)
    wrong = any(len(text) != 33 or text[0] not in "0123" or set(text[1:]) - set("0123456789abcdef") for text in identifiers)
    assert (len(events), len(outcome.dead)) == ((0, 1) if wrong else (1, 0))


@given(st.lists(st.sampled_from(["fine", "long", "rubbish", "nothing", "no node"]), min_size=MIN_BATCH, max_size=MIN_BATCH))
def test_odd_records_keep_their_place_among_many(kinds: list[str]) -> None:
    """Records read alone keep their position; undecodable ones are dead letters with their position."""
    values = {
        "fine": event(1, ["2" + "a" * 32]), "long": event(2, ["2" + "b" * 32], event_id="x" * 9_000),
        "rubbish": event(3, [])[:9], "nothing": None, "no node": event(4, ["a text"]),
    }  # fmt: skip
    outcome = Outcome()
    events = READER.read(outcome, batch([values[kind] for kind in kinds]), 0)
    alive = ("fine", "long")
    assert [(record.position, record.value) for record in events] == [
        (at, values[kind]) for at, kind in enumerate(kinds) if kind in alive
    ]
    assert sorted(dead.at for dead in outcome.dead) == [at for at, kind in enumerate(kinds) if kind not in alive]


@given(NODE, NODE, st.integers(0, 300), st.sampled_from(["", "shared", "erased"]), TEXT)
def test_slots_are_what_decoding_says(node: str, parent: str, epoch: int, state: str, event_id: str) -> None:
    """Slots survive the round trip through the log."""
    slot = Slot(parent, True, epoch, state, T if state == "erased" else 0)
    _, value, _ = SLOTS.encode_slot(node, slot, event_id, T + 1)
    record = decode(REGISTRY, value or b"")[1]
    assert record == slot_record(node, slot, event_id, T + 1)
    assert SLOTS.decode_slot(value or b"") == (node, slot) == (record["node"], slot_of(record))
