"""The consent stage and its ledger: withdrawals override older signals, crashes lose nothing, the audit chain is complete."""

from collections.abc import Sequence

import pytest

from infra.errors import Retryable
from schemas.codec import decode, encode
from streams.consent.decision.audit import ChainHead, find_breaks
from streams.consent.ledger.ledger import Times
from streams.consent.ledger.ledger_writes import SIGNALS
from streams.consent.ledger.store import MemoryStateStore, States
from streams.consent.policy import PACKAGED, parse_policy
from streams.consent.stage import AUDIT, RAW, REVOCATIONS, STATE
from streams.runtime.stage import Batch
from tests.streams.consent.events import raw
from tests.streams.consent.room import DENIED, EMPTY, GRANTED, HOUR, OTHER, POLICY, REGISTRY, STORED, SUBJECT, Room, T, records

ALL_OK = "OK_CONSENT OK_CONSENT OK_CONSENT"
ALL_WITHDRAWN = "WITHDRAWN WITHDRAWN WITHDRAWN"


def test_a_withdrawal_beats_what_is_not_newer() -> None:
    """A withdrawal denies from the next event on, until a newer dated choice lifts it."""
    room = Room()
    assert room.event(GRANTED) == ALL_OK
    room.signal()
    assert room.event(GRANTED, T + 1) == ALL_WITHDRAWN
    assert room.event(EMPTY, T + 2) == ALL_WITHDRAWN
    assert room.event({**GRANTED, "chosen_ts": str(T)}, T + 3) == ALL_WITHDRAWN
    assert room.event(GRANTED, T - HOUR) == ALL_WITHDRAWN
    assert room.event(GRANTED, T + 4, OTHER) == ALL_OK
    assert room.event({**GRANTED, "chosen_ts": str(T + 5)}, T + 6) == ALL_OK
    assert room.event(GRANTED, T + 7) == ALL_OK


def test_who_was_erased_is_not_remembered_again_by_a_replay() -> None:
    """Choices and withdrawals from before an erasure are not stored; later ones are."""
    room = Room()
    room.signal(regulation="opt-in")
    (key,) = room.states.states
    choice = {**GRANTED, "chosen_ts": str(T + 1)}
    room.states.states[key] = {"erased": T + HOUR}
    assert room.event(EMPTY, T + 1) == ALL_WITHDRAWN, "the worker knows her still"
    room.stage.on_broadcast("privacy.erasures", [(b"r", b"asked")])
    assert room.event(GRANTED, T + 2) == ALL_OK
    for outcome in (
        room.signal(regulation="opt-in"),
        room.handle(RAW, encode(REGISTRY.latest(RAW), raw(signals=choice, collector_ts=T + 3))),
    ):
        assert records(outcome, STATE) == records(outcome, REVOCATIONS) == []
    assert room.states.states[key] == {"erased": T + HOUR}
    room.signal(regulation="opt-in", received_ts=T + 2 * HOUR, chosen_ts=T + 2 * HOUR)
    assert room.event(GRANTED, T + 3 * HOUR) == ALL_WITHDRAWN


def test_other_sites_and_regulations_are_others() -> None:
    """A withdrawal holds for its group of sites, and for its regulation where it names one."""
    policy = parse_policy(
        PACKAGED.read_text().replace("site_groups: {}", "site_groups: {shops: [shop.example, store.example]}"), "p"
    )
    room = Room(policy)
    room.signal(regulation="opt-in", purposes=["marketing"])
    assert room.event(GRANTED, T + 1) == "OK_CONSENT WITHDRAWN OK_CONSENT"
    assert room.event(GRANTED, T + 1, site="store.example") == "OK_CONSENT WITHDRAWN OK_CONSENT"
    assert room.event(GRANTED, T + 1, site="blog.example") == ALL_OK
    assert room.event(GRANTED, T + 1, region="US") == ALL_OK


def test_an_events_own_choice_withdraws() -> None:
    """A denial with a time, or an event that is a choice, after a grant: state, audit and revocation leave together."""
    room = Room()
    room.event({**GRANTED, "chosen_ts": str(T - HOUR)})
    value = encode(REGISTRY.latest(RAW), raw(signals=DENIED, event_name="consent_update", collector_ts=T + 9))
    outcome = room.handle(RAW, value)
    (revocation,) = records(outcome, REVOCATIONS)
    assert (revocation["subject"], revocation["withdrawn_ts"], revocation["site"]) == (SUBJECT.decode(), T + 9, "shop.example")
    assert sorted(revocation["purposes"]) == ["analytics", "marketing", "personalization"]
    assert revocation["withdrawal"]
    assert revocation["regulation"] == ""
    state, elsewhere = records(outcome, STATE)
    assert (state["regulation"], elsewhere["regulation"]) == ("opt-in", "opt-out")
    assert state["times"]["analytics.denied"] == T + 9 > state["times"]["analytics.granted"] == T - HOUR
    assert set(elsewhere["times"].values()) == {T + 9}
    assert [record["outcome"] for record in records(outcome, AUDIT) if record["kind"] == "state"] == ["withdrawn", "denied"]
    again = room.handle(RAW, value)
    assert not again.out.get(REVOCATIONS)
    assert not again.out.get(STATE)


def test_a_linked_withdrawal_is_not_expanded_again() -> None:
    """A linked refusal changes the state and publishes no revocation."""
    room = Room()
    outcome = room.signal(via="linked")
    assert len(records(outcome, STATE)) == 2
    assert not outcome.out.get(REVOCATIONS)
    assert len(records(room.signal(subject=OTHER.decode()), REVOCATIONS)) == 1


def test_webhooks_carry_choices() -> None:
    """A platform's choice is stored with its time, and counts for events without a signal where the policy says so."""
    for policy, silent in ((POLICY, "NO_SIGNAL NO_SIGNAL NO_SIGNAL"), (STORED, "OK_CONSENT PURPOSE NO_SIGNAL")):
        room = Room(policy)
        room.signal(kind="choice", signals={"cmp.analytics": "1", "cmp.marketing": "0"})
        denied = silent if policy is STORED else "NO_SIGNAL PURPOSE NO_SIGNAL"
        assert room.event(EMPTY, T + 1) == denied
        assert room.event(EMPTY, T - HOUR) == "NO_SIGNAL PURPOSE NO_SIGNAL"  # never granted to what came before
        assert room.event({"cmp.analytics": "0"}, T + 2).startswith("PURPOSE")


def test_a_clock_that_is_ahead_lifts_nothing() -> None:
    """A choice from the future counts as one of unknown time."""
    room = Room()
    room.signal()
    assert room.event({**GRANTED, "chosen_ts": str(T + HOUR)}, T + 1) == ALL_WITHDRAWN
    assert room.event({**GRANTED, "chosen_ts": "soon"}, T + 1) == ALL_WITHDRAWN


def test_an_uncommitted_change_leaves_again() -> None:
    """A new worker writes again what was never committed, and nothing that was."""
    states = MemoryStateStore()
    value = encode(REGISTRY.latest(RAW), raw(signals={**GRANTED, "chosen_ts": str(T)}, collector_ts=T))
    first = Room(states=states).handle(RAW, value, commit=False)
    second = Room(states=states).handle(RAW, value)
    assert records(first, STATE) == records(second, STATE) != []
    assert not Room(states=states).handle(RAW, value).out.get(STATE)


class Away(MemoryStateStore):
    """A view whose server goes away."""

    away = False

    def read(self, partition: int, keys: Sequence[str]) -> list[Times | None]:
        """Retryable while away."""
        if self.away:
            raise Retryable("away")
        return super().read(partition, keys)

    def write(self, partition: int, states: States, at: int) -> None:
        """Retryable while away."""
        if self.away:
            raise Retryable("away")
        super().write(partition, states, at)


def test_while_the_view_is_away_nothing_unknown_passes() -> None:
    """An event that needs a look-up waits; changes that could not be written are written later."""
    states = Away()
    room = Room(states=states)
    outcome = room.signal()
    states.away = True
    with pytest.raises(Retryable):
        room.event(GRANTED, subject=OTHER)
    states.away = False
    assert room.event(GRANTED, T + 1) == ALL_WITHDRAWN
    assert room.event(GRANTED, subject=OTHER) == ALL_OK
    assert outcome.passed == 1


def test_a_hook_that_failed_is_made_up_for() -> None:
    """A change whose hook could not reach the view goes with the next one."""
    states = Away()
    room = Room(states=states)
    value = encode(REGISTRY.latest(RAW), raw(signals={**GRANTED, "chosen_ts": str(T)}, collector_ts=T))
    outcome = room.handle(RAW, value, commit=False)
    states.away = True
    with pytest.raises(Retryable):
        outcome.after_commit[0]()
    states.away = False
    room.signal(subject=OTHER.decode())
    assert any(SUBJECT.decode() in key for key in states.states)


def test_the_chain_holds_over_batches_and_restarts() -> None:
    """Every audit record of a partition follows the one before, also after another worker has taken over."""
    room, written = Room(), []
    heads: list[tuple[bytes | None, bytes | None]] = []
    for n in range(6):
        if n == 3:
            room = Room(states=room.states)
            room.stage.on_restore("consent.heads", 3, heads)
        outcome = room.signal(chosen_ts=T + n, received_ts=T + n, via="linked")
        written += records(outcome, AUDIT)
        heads += [(key, value) for key, value, _ in outcome.out["consent.heads"]]
        assert {partition for _, _, partition in [*outcome.out[AUDIT], *outcome.out["consent.heads"]]} == {3}
    last = decode(REGISTRY, heads[-1][1] or b"")[1]
    assert len(written) == 6 * 2 + 2
    assert list(find_breaks(written, {3: ChainHead(last["seq"], last["hash"])})) == []


def test_broken_signals_are_dead() -> None:
    """Broken bytes, an event, a subject that is no node: dead letters; the other records are applied."""
    room = Room()
    good = encode(
        REGISTRY.latest(SIGNALS),
        {
            "subject": SUBJECT.decode(), "site": "", "regulation": "", "kind": "withdrawal", "signals": {}, "purposes": [],
            "chosen_ts": T, "received_ts": T, "via": "webhook", "evidence": "",
        },
    )  # fmt: skip
    values = [b"\x00", encode(REGISTRY.latest(RAW), raw()), good, None, good.replace(SUBJECT, SUBJECT[:-1] + b"\xff")]
    outcome = room.stage.handle(Batch(SIGNALS, 0, [SUBJECT] * 5, values, range(5)), 0)
    assert (outcome.passed, [dead.at for dead in outcome.dead]) == (1, [0, 1, 3, 4])


def test_a_state_that_is_said_again_is_learned_as_it_is() -> None:
    """A state under new keys is stored with every time and without a revocation; a second time changes nothing."""
    room = Room(STORED)
    room.event(GRANTED, T - HOUR)
    room.event({**GRANTED, "cmp.marketing": "0", "chosen_ts": str(T - HOUR)}, T)
    room.signal(purposes=["personalization"], regulation="opt-in")
    (was,) = [times for key, times in room.states.states.items() if key.startswith("opt-in") and key.endswith(SUBJECT.decode())]
    assert {name.partition(".")[2] for name in was} == {"seen_granted", "granted", "denied", "withdrawn"}, was
    fields = {
        "subject": OTHER.decode(),
        "kind": "state",
        "signals": {name: str(at) for name, at in was.items()},
        "via": "linked",
    }
    outcome = room.signal(**fields, regulation="opt-in")
    assert [times for key, times in room.states.states.items() if key.endswith(OTHER.decode())] == [was]
    assert REVOCATIONS not in outcome.out
    (audited,) = [record for record in records(outcome, AUDIT) if record["kind"] == "state"]
    assert audited["method"] == "linked"
    assert STATE not in room.signal(**fields, regulation="opt-in").out
    assert room.event(GRANTED, T + HOUR, OTHER) == room.event(GRANTED, T + HOUR)


@pytest.mark.parametrize(
    "times",
    [
        {"analytics.erased": "5"},
        {"analytics.granted": "soon"},
        {"granted": "5"},
        {"analytics.granted": "9" * 16},
        {"erased": "5"},
    ],
)
def test_a_state_that_is_none_is_dead(times: dict[str, str]) -> None:
    """A state with an invalid time is a dead letter."""
    outcome = Room().signal(kind="state", signals=times)
    assert [dead.detail for dead in outcome.dead] == ["a state with something that is no time of a purpose"]
    assert STATE not in outcome.out
