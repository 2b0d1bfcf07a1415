"""The consent stage: outputs, their keys, counts and audit."""

from collections import Counter
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError, Retryable
from infra.settings import PACKAGED_CONTRACTS
from infra.telemetry.metrics import Metrics
from schemas.codec import Record, decode, encode
from schemas.fast.head_columns import MIN_BATCH
from schemas.registry import Registry
from streams.consent.decision.decide import decide
from streams.consent.decision.event_head import HEAD_BYTES
from streams.consent.formats.evidence import SignalReader
from streams.consent.ledger.store import MemoryStateStore
from streams.consent.policy import PACKAGED, Policy, load_policy, parse_policy
from streams.consent.stage import AUDIT, CONSENTED, RAW, ConsentDependencies, ConsentStage
from streams.runtime.stage import Batch, CountCell, Outcome
from tests.streams.consent.events import ANALYTICS, MARKETING, PERSONALIZATION, raw
from tests.support.scale import examples

REGISTRY = Registry(PACKAGED_CONTRACTS)
POLICY = load_policy(PACKAGED)
GRANTED = {"cmp.analytics": "1", "cmp.marketing": "1", "cmp.personalization": "1"}
DENIED = {"cmp.analytics": "0", "cmp.marketing": "0", "cmp.personalization": "0"}
SERVICES = sha256(b"cmp.analytics|cmp.marketing|cmp.personalization").hexdigest()[:8]


def stage(policy: Policy = POLICY, changed: Any = lambda: None) -> ConsentStage:
    """A stage on the packaged contracts."""
    return ConsentStage(REGISTRY, policy, ConsentDependencies(b"k" * 32, MemoryStateStore(), Metrics(), changed))


def batch(*values: bytes | None, offset: int = 0) -> Batch:
    """A batch of partition 3, keyed by one subject."""
    return Batch(RAW, 3, [b"subject"] * len(values), values, range(offset, offset + len(values)))


def event(**fields: object) -> bytes:
    """An event of events.raw."""
    return encode(REGISTRY.latest(RAW), raw(**fields))


def only(outcome: Outcome) -> tuple[bytes | None, Record, bytes]:
    """Key, record and bytes of the one event that left."""
    ((key, value, _),) = outcome.out[CONSENTED]
    assert value is not None
    return key, decode(REGISTRY, value)[1], value


def test_an_allowed_event_passes_untouched() -> None:
    """With everything granted, the payload's bytes are the same and the key stays."""
    value = event(signals=GRANTED)
    key, record, written = only(stage().handle(batch(value), 0))
    assert key == b"subject"
    assert written.endswith(value[5:])
    assert (record["consent_outcome"], record["consent_purposes"], record["consent_policy"]) == ("pass", 7, POLICY.rev)
    assert record["consent_reasons"] == "analytics=OK_CONSENT marketing=OK_CONSENT personalization=OK_CONSENT"


@given(st.sampled_from(["1", "0"]), st.sampled_from(["1", "0"]), st.sampled_from(["1", "0"]))
def test_no_denied_value_leaves(analytics: str, marketing: str, personalization: str) -> None:
    """Of each denied purpose, no value is in the output's bytes; of each granted one, all are, unless it is anonymised."""
    signals = {"cmp.analytics": analytics, "cmp.marketing": marketing, "cmp.personalization": personalization}
    key, _, written = only(stage().handle(batch(event(signals=signals)), 0))
    forbidden = [
        value
        for answer, values in ((analytics, ANALYTICS), (marketing, MARKETING), (personalization, PERSONALIZATION))
        for value in values
        if answer == "0"
    ]
    assert not [value for value in forbidden if value in written]
    if analytics == "1":
        assert key == b"subject"
        allowed = ANALYTICS + MARKETING * (marketing == "1") + PERSONALIZATION * (personalization == "1")
        assert all(value in written for value in allowed)


def test_ids_of_a_topic_made_anew_are_others() -> None:
    """A recreated topic has another event at the same offset, so its ids must differ."""
    events = batch(event(event_name="purchase", signals=DENIED))
    ids = [only(stage().handle(replace(events, topic_id=topic_id), 0))[1]["event_id"] for topic_id in ("a", "a", "b")]
    assert ids[0] == ids[1] != ids[2]


def test_an_anonymised_event_is_unlinkable_and_replayable() -> None:
    """It has a new id, which is its key, the hour, the country and the allow-list; the same offset gets the same id again."""
    value = event(signals=DENIED, region="DE-BY")
    key, record, written = only(stage().handle(batch(value, offset=9), 0))
    assert record["event_id"].encode() == key != b"e-1"
    assert b"e-1" not in written
    assert (record["event_name"], record["site"], record["region"]) == ("purchase", "shop.example", "DE")
    assert record["collector_ts"] % 3_600_000 == record["event_ts"] % 3_600_000 == 0
    assert record["signals"] == {}
    assert record["consent_evidence"] == ""
    assert only(stage().handle(batch(value, offset=9), 0))[0] == key != only(stage().handle(batch(value, offset=10), 0))[0]


def test_heartbeats_pass_with_nothing_of_a_purpose() -> None:
    """A heartbeat keeps its id and key, is not counted, and loses all fields of purposes."""
    outcome = stage().handle(batch(event(heartbeat=True)), 0)
    key, record, written = only(outcome)
    assert (key, record["event_id"], record["consent_outcome"], record["consent_purposes"]) == (b"subject", "e-1", "pass", 0)
    assert not [value for value in ANALYTICS + MARKETING + PERSONALIZATION if value in written]
    assert outcome.counts == {}
    assert [decode(REGISTRY, value or b"")[1]["kind"] for _, value, _ in outcome.out[AUDIT]] == ["policy"]


ODD: list[bytes | None] = [
    event(signals=GRANTED), event(signals=DENIED, event_name="x" * 9_000), event(heartbeat=True), event(signals=GRANTED)[:40],
    event(site="s" * 70, region="US-CA"), b"rubbish", b"", None, event(collector_ts=-1), event(signals=DENIED)[:-1],
    *(event(signals=GRANTED, event_name="x" * (HEAD_BYTES - spare)) for spare in range(0, 80, 4)),
]  # fmt: skip


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(st.sampled_from(ODD), min_size=6 * MIN_BATCH, max_size=6 * MIN_BATCH))
def test_events_read_together_leave_as_they_do_alone(values: list[bytes | None]) -> None:
    """The outputs of a batch equal those of its events alone, whatever events are between them."""
    separate, together = stage(), stage()
    for each in (separate, together):
        each.handle(batch(event(signals=GRANTED)), 0)
    joint = together.handle(batch(*values), 0)
    alone = [separate.handle(batch(value, offset=at), 0) for at, value in enumerate(values)]
    assert joint.out[CONSENTED] == [output for outcome in alone for output in outcome.out[CONSENTED]]
    assert sorted((dead.at, dead.detail) for dead in joint.dead) == [
        (at, dead.detail) for at, outcome in enumerate(alone) for dead in outcome.dead
    ]
    assert joint.counts == sum((outcome.counts for outcome in alone), Counter())


def test_counts_and_audit() -> None:
    """Events are counted by minute and outcome; what did not pass is audited in deltas, with its reasons."""
    minute = 1_764_000_120_000
    outcome = stage().handle(batch(event(signals=GRANTED), event(signals=DENIED), event(signals=DENIED), b"rubbish"), 60)
    assert outcome.counts == {
        CountCell(minute, "web-de", "purchase", "pass"): 1,
        CountCell(minute, "web-de", "purchase", "anonymise"): 2,
        CountCell(60_000, "", "", "dead:UNDECODABLE"): 1,
        CountCell(minute, "web-de", "", "fingerprint", (("site", "shop.example"), ("services", SERVICES))): 3,
    }
    in_force, denied = (decode(REGISTRY, value or b"")[1] for _, value, _ in outcome.out[AUDIT])
    assert (in_force["kind"], in_force["policy"], in_force["chain"], in_force["seq"]) == ("policy", POLICY.rev, 3, 1)
    expected = {
        "kind": "denied",
        "site": "shop.example",
        "minute": minute,
        "outcome": "anonymise",
        "reasons": "analytics=PURPOSE marketing=PURPOSE personalization=PURPOSE",
        "policy": POLICY.rev,
        "n": 2,
        "subject": "",
        "seq": 2,
        "prev_hash": in_force["hash"],
    }
    assert {name: denied[name] for name in expected} == expected


def test_drops_carry_a_reason() -> None:
    """A policy that drops leaves nothing but a count and an audit line."""
    policy = parse_policy(PACKAGED.read_text().replace("on_deny: anonymise", "on_deny: drop"), "p")
    outcome = stage(policy).handle(batch(event(signals=DENIED), event()), 0)
    assert outcome.dropped == {"PURPOSE": 1, "NO_SIGNAL": 1}
    assert outcome.out[CONSENTED] == []
    assert len(outcome.out[AUDIT]) == 1 + 2


def test_an_event_stripped_of_analytics_loses_its_key() -> None:
    """Where no purpose is required, an event without analytics keeps no pseudonym, neither inside nor as its key."""
    policy = parse_policy(PACKAGED.read_text().replace("requires: [analytics]", "requires: []"), "p")
    key, record, _ = only(stage(policy).handle(batch(event(signals=DENIED)), 0))
    assert record["consent_outcome"] == "strip"
    assert record["identifiers"] == []
    assert key != b"subject"


def test_an_unknown_contract_is_waited_for() -> None:
    """An id that nobody knows yet holds the partition; bytes without a frame are dead."""
    with pytest.raises(Retryable):
        stage().handle(batch(b"\x00\x00\x00\x27\x0fxyz"), 0)
    outcome = stage().handle(batch(b"", None, b"\x00\x00\x00\x00\x08", event()[:40]), 0)
    assert [dead.reason for dead in outcome.dead] == ["UNDECODABLE"] * 4


def test_a_broken_tail_of_a_rewritten_event_is_dead() -> None:
    """An event that must be decoded whole and cannot be is a dead letter."""
    outcome = stage().handle(batch(event(signals=DENIED)[:-3]), 0)
    assert [dead.reason for dead in outcome.dead] == ["UNDECODABLE"]


def test_many_heads_do_not_fill_memory() -> None:
    """The cache of decisions is bounded, whatever names come."""
    room = stage()
    for start in range(0, 18_000, 1_000):
        names = (event(event_name=f"n{n}", signals={"cmp.x": str(n)}) for n in range(start, start + 1_000))
        room.handle(batch(*names), 0)
    room.handle(batch(event(event_name="x" * 10_000, signals={"cmp.x": "y" * 10_000})), 0)
    (cache,) = room._caches.values()
    assert (len(cache.contexts), len(cache.signals)) == (4_096, 16_384)
    assert max(map(len, cache.contexts)) < 4_097
    assert max(len(data) for _, data in cache.signals) < 4_097


def test_who_says_much_is_not_kept_as_a_visitor() -> None:
    """Memory stays bounded whatever is sent; who says little is recognised when they come again."""
    room, keys = stage(), [b"2" + b"a" * 32, b"2" + b"b" * 32]
    values = [event(signals={"cmp.x": "y" * n}, identifiers=[key.decode()]) for n, key in zip((10_000, 1), keys, strict=True)]
    room.handle(Batch(RAW, 3, keys, values, range(2)), 0)
    assert list(room._ledger.partition(3).visitors) == keys[1:]


@given(st.dictionaries(st.sampled_from(["gcs", "gcd", "gpc", "cmp.analytics"]), st.sampled_from(["1", "G111", "0", "?"])))
def test_cached_decisions_are_the_decisions(signals: dict[str, str]) -> None:
    """What the stage writes is what the pure function says, met for the first time or again."""
    room = stage()
    for _ in range(2):
        _, record, _ = only(room.handle(batch(event(signals=signals, region="US")), 0))
        assert record["consent_purposes"] == decide(POLICY, "purchase", SignalReader(POLICY).read("US", signals, 0)).mask


def test_policies_change_while_it_runs() -> None:
    """A changed policy is in force from the next batch; a broken one leaves the old one in force."""
    queue: list[Any] = [
        ConfigError("broken"),
        parse_policy(PACKAGED.read_text().replace("[US]", "[US, DE]"), "p"),
        None,
    ]

    def changed() -> Policy | None:
        item = queue.pop(0)
        if isinstance(item, Exception):
            raise item
        return item  # type: ignore[no-any-return] # the queue holds policies

    room = stage(changed=changed)
    outcomes = []
    for _ in range(3):
        assert room.on_tick(0).out == {}
        outcomes.append(only(room.handle(batch(event()), 0))[1]["consent_outcome"])
    assert outcomes == ["anonymise", "pass", "pass"]


def test_imported_events_are_counted_apart() -> None:
    """History is no part of the volume of the minute in which it arrives, whatever becomes of it."""
    signals = (GRANTED, GRANTED | {"cmp.marketing": "0"}, DENIED)
    values = [event(signals=each, imported=imported) for each in signals for imported in (True, False)]
    for room, repeats in ((stage(), 1), (stage(), MIN_BATCH)):  # read alone, and together
        outcome = room.handle(batch(*values * repeats), 0)
        counts: Counter[str] = Counter()
        for cell, n in outcome.counts.items():
            counts[cell.outcome] += n if cell.event_name == "purchase" else 0
        assert +counts == {
            f"{origin}{action}": repeats for origin in ("", "imported:") for action in ("pass", "strip", "anonymise")
        }
        written = [decode(REGISTRY, value or b"")[1]["imported"] for _, value, _ in outcome.out[CONSENTED]]
        assert written == [True, False] * 3 * repeats
