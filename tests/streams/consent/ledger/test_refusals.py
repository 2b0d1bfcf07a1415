"""Refusals are stored whatever their date and channel, for every identifier of an event, in every region."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.telemetry.metrics import Metrics
from schemas.codec import encode
from streams.consent.ledger.ledger import DAY_MS, Times
from streams.consent.ledger.store import MemoryStateStore
from streams.consent.policy import PACKAGED, parse_policy
from streams.consent.stage import CONSENTED, RAW, REVOCATIONS, STATE, ConsentDependencies, ConsentStage
from streams.runtime.stage import Batch
from tests.streams.consent.events import raw
from tests.streams.consent.room import DENIED, EMPTY, GRANTED, HOUR, POLICY, REGISTRY, SUBJECT, Room, T, records
from tests.streams.consent.strings import tc_string
from tests.support.scale import examples

NOON = T // DAY_MS * DAY_MS + 12 * HOUR
CLOCK = datetime.fromtimestamp(NOON / 1000, UTC)
TC = {"gdpr_applies": "1", "tc_event_status": "tcloaded"}
USER, COOKIE, PHONE = b"0" + b"ee" * 16, SUBJECT, b"2" + b"cc" * 16
OK, SILENT = "OK_CONSENT OK_CONSENT OK_CONSENT", "NO_SIGNAL NO_SIGNAL NO_SIGNAL"
REFUSED, WITHDRAWN = "PURPOSE PURPOSE PURPOSE", "WITHDRAWN WITHDRAWN WITHDRAWN"
LIFTING = parse_policy(PACKAGED.read_text().replace("undated_grants_lift: false", "undated_grants_lift: true"), "p")


def tc(consent: str, day: int) -> dict[str, str]:
    """A TC string that was last changed so many days before today."""
    return {**TC, "tc_string": tc_string(consent, updated_ms=NOON // DAY_MS * DAY_MS - day * DAY_MS)}


def at(time: int) -> dict[str, str]:
    """When a choice was made."""
    return {"chosen_ts": str(time)}


ALL, NONE = "1" * 24, "0" * 24


def test_a_refusal_of_today_by_tc_string_holds_at_once() -> None:
    """A refusal of today denies events a moment later, by event and by webhook."""
    room = Room()
    assert room.event(tc(NONE, 0), NOON) == REFUSED
    assert room.event(GRANTED, NOON + 1) == REFUSED
    room = Room()
    room.signal(kind="choice", signals=tc(NONE, 0), chosen_ts=NOON, received_ts=NOON)
    assert room.event(GRANTED, NOON + 1) == REFUSED


def test_a_consent_of_today_lifts_an_older_withdrawal() -> None:
    """A TC string of today lifts an older withdrawal; a withdrawal of the same day wins."""
    room = Room()
    room.signal(chosen_ts=NOON - DAY_MS, received_ts=NOON - DAY_MS)
    assert room.event(GRANTED, NOON) == WITHDRAWN
    assert room.event(tc(ALL, 0), NOON) == OK
    assert room.event(GRANTED, NOON + 1) == OK
    room.signal(chosen_ts=NOON + 2, received_ts=NOON + 2)
    assert room.event(tc(ALL, 0), NOON + 3) == WITHDRAWN


def test_on_the_page_where_it_is_chosen_the_moment_is_known() -> None:
    """An event that is the choice, where the visitor has just acted, is dated by its arrival."""
    room = Room()
    room.event(tc(NONE, 0) | {"tc_event_status": "useractioncomplete"}, NOON, event_name="consent_update")
    acted = tc(ALL, 0) | {"tc_event_status": "useractioncomplete"}
    assert room.event(acted, NOON + 1) == WITHDRAWN, "no event that is a choice"
    assert room.event(acted, NOON + 2, event_name="consent_update") == OK
    assert room.event(GRANTED, NOON + 3) == OK


@pytest.mark.parametrize("by_event", [True, False])
@pytest.mark.parametrize("refusal_first", [True, False])
def test_a_later_refusal_beats_an_earlier_grant_whichever_comes_first(by_event: bool, refusal_first: bool) -> None:
    """A refusal of 12:00 and a grant of 04:00, in both orders, by both channels."""
    room = Room()

    def choose(signals: dict[str, str], time: int) -> None:
        if by_event:
            room.event(signals | at(time), NOON + 1)
        else:
            room.signal(kind="choice", signals=signals, chosen_ts=time, received_ts=NOON + 1)

    choices = [(DENIED, NOON), (GRANTED, NOON - 8 * HOUR)]
    for signals, time in choices if refusal_first else reversed(choices):
        choose(signals, time)
    assert room.event(GRANTED | at(NOON - 8 * HOUR), NOON + 2) == WITHDRAWN
    assert room.event(GRANTED, NOON + 3) == WITHDRAWN
    assert room.event(EMPTY, NOON + 3, region="US") in (WITHDRAWN, REFUSED)
    assert room.event(GRANTED | at(NOON + 4), NOON + 5) == OK


def test_a_grant_without_a_time_lifts_only_where_the_policy_says_so() -> None:
    """A stored dated refusal overrides undated grants, unless `undated_grants_lift`."""
    for policy, then in ((POLICY, REFUSED), (LIFTING, OK)):
        room = Room(policy)
        room.event(DENIED | at(NOON), NOON)
        assert room.event(GRANTED, NOON + 1) == then
        assert room.event(GRANTED | at(NOON - 1), NOON + 2) == (OK if policy is LIFTING else WITHDRAWN)
        assert room.event(GRANTED | at(NOON + 3), NOON + 3) == OK


def test_a_refusal_without_a_time_answers_for_silence_until_a_grant_follows() -> None:
    """An undated refusal counts for events without a signal, in every region, until a later signal."""
    room = Room()
    assert room.event({"cmp.marketing": "0"}, NOON) == "NO_SIGNAL PURPOSE NO_SIGNAL"
    assert room.event(EMPTY, NOON + 1, region="US") == "NO_SIGNAL PURPOSE NO_SIGNAL"
    assert room.event({"cmp.marketing": "1"}, NOON + 2) == "NO_SIGNAL OK_CONSENT NO_SIGNAL"
    assert room.event(EMPTY, NOON + 3) == SILENT


def test_a_withdrawn_cookie_counts_inside_an_event_of_a_user() -> None:
    """A refusal of any identifier of an event denies it, whatever its key."""
    room = Room()
    room.signal(subject=COOKIE.decode(), purposes=["marketing"])
    both = {"identifiers": [USER.decode(), COOKIE.decode()]}
    for region in ("DE", "US"):
        assert room.event(GRANTED, T + 1, USER, region=region, **both) == "OK_CONSENT WITHDRAWN OK_CONSENT"
    assert room.event(GRANTED, T + 1, USER) == OK
    mail = "3" + "aa" * 16
    room.signal(subject=mail)
    assert room.event(GRANTED, T + 2, PHONE, identifiers=[PHONE.decode(), mail]) == WITHDRAWN


def test_an_events_own_refusal_is_remembered_of_all_its_identifiers() -> None:
    """Each identifier is refused from then on, alone and with others; each new refusal is published as a revocation."""
    room = Room()
    both = {"identifiers": [USER.decode(), COOKIE.decode()]}
    room.event(DENIED | at(T), T, USER, **both)
    assert room.event(GRANTED, T + 1, COOKIE) == REFUSED
    assert room.event(GRANTED, T + 1, USER) == REFUSED
    room.event(GRANTED | at(T + 2), T + 2, USER, **both)
    assert room.event(GRANTED, T + 3, COOKIE) == OK
    assert room.event(GRANTED, T + 3, USER) == OK


def test_a_new_refusal_asks_to_be_handed_over_once() -> None:
    """A refusal without a grant before is published too, not as a withdrawal; a repeated one is not."""
    room = Room()
    refused = room.signal(kind="choice", signals=DENIED)
    (revocation,) = records(refused, REVOCATIONS)
    assert (revocation["withdrawal"], revocation["withdrawn_ts"], revocation["regulation"]) == (False, T, "")
    assert not records(room.signal(kind="choice", signals=DENIED), REVOCATIONS)
    room.signal(kind="choice", signals=GRANTED | at(T + 1), chosen_ts=T + 1, received_ts=T + 1)
    (withdrawal,) = records(room.signal(kind="choice", signals=DENIED, chosen_ts=T + 2, received_ts=T + 2), REVOCATIONS)
    assert withdrawal["withdrawal"]
    assert not records(
        room.signal(kind="choice", signals=DENIED, chosen_ts=T + 9, received_ts=T + 9, via="linked"), REVOCATIONS
    )


def test_who_agrees_as_a_user_agrees_for_her_devices_and_not_the_other_way_round() -> None:
    """A user's later grant lifts a device's refusal in her events; a device's grant lifts none of its users'."""
    both = {"identifiers": [USER.decode(), COOKIE.decode()]}
    room = Room()
    room.signal(kind="choice", signals=DENIED, subject=COOKIE.decode(), chosen_ts=NOON, received_ts=NOON)
    room.signal(kind="choice", signals=GRANTED, subject=USER.decode(), chosen_ts=NOON + 1, received_ts=NOON + 1)
    assert room.event(GRANTED, NOON + 2, USER, **both) == OK
    assert room.event(GRANTED, NOON + 2, COOKIE) == REFUSED
    room = Room()
    room.signal(kind="choice", signals=DENIED, subject=USER.decode(), chosen_ts=NOON, received_ts=NOON)
    room.signal(kind="choice", signals=GRANTED, subject=COOKIE.decode(), chosen_ts=NOON + 1, received_ts=NOON + 1)
    assert room.event(GRANTED, NOON + 2, USER, **both) == REFUSED
    assert room.event(GRANTED, NOON + 2, COOKIE) == OK


def test_refusals_hold_across_regions_and_grants_only_within_their_own() -> None:
    """A refusal in Germany counts in the USA; a grant in the USA does not count in Germany."""
    room = Room()
    room.event(DENIED | at(NOON), NOON, region="DE")
    assert room.event(EMPTY, NOON + 1, region="US") == REFUSED
    room.event(GRANTED | at(NOON + 2), NOON + 2, region="US")
    assert room.event(EMPTY, NOON + 3, region="US") == SILENT
    assert room.event(GRANTED, NOON + 3, region="DE") == REFUSED
    room = Room()
    room.event(DENIED | at(NOON), NOON, region="US")
    assert room.event(GRANTED, NOON + 1, region="FR") == REFUSED


@pytest.mark.parametrize(
    "form",
    [
        str(NOON // 1000), str(NOON), f"{NOON / 1000:.3f}", f"{NOON}.0", f"{NOON}000",
        f"{CLOCK:%Y-%m-%dT%H:%M:%S}", f"{CLOCK:%Y-%m-%d %H:%M:%SZ}", f"{CLOCK:%Y-%m-%dT%H:%M:%S}+00:00",
    ],
)  # fmt: skip
def test_times_of_choices_are_read_in_every_usual_form(form: str) -> None:
    """A refusal of noon beats a grant of a minute earlier and yields to one of a minute later, however its time is written."""
    room = Room()
    room.event(DENIED | {"chosen_ts": form}, NOON + HOUR)
    assert room.event(GRANTED | at(NOON - 60_000), NOON + HOUR) == WITHDRAWN
    assert room.event(GRANTED | at(NOON + 60_000), NOON + HOUR) == OK


@pytest.mark.parametrize("form", ["soon", "", "null", "[1]", "-5", "99999999999999999", str(NOON + DAY_MS)])
def test_a_time_that_cannot_be_read_dates_a_refusal_by_its_arrival_and_a_grant_not_at_all(form: str) -> None:
    """A future time and two different times are unreadable: a refusal counts from its arrival."""
    room = Room()
    room.event(DENIED | {"chosen_ts": form}, NOON)
    assert room.event(GRANTED | {"chosen_ts": form}, NOON + HOUR) == REFUSED
    assert room.event(GRANTED | {"chosen_ts": str(NOON + HOUR), "chosen_ts#2": str(NOON)}, NOON + HOUR) == REFUSED
    assert room.event(GRANTED | at(NOON + 1), NOON + HOUR) == OK


def test_a_refusal_that_says_no_readable_time_is_taken_down_once_a_day() -> None:
    """Such a refusal comes with every event, and would make the audit a record of visits."""
    room = Room()
    signals = DENIED | {"chosen_ts": "soon"}
    changes = 0
    for n in range(50):
        outcome_before = len(room.states.states)
        room.event(signals, NOON + n * 60_000)
        changes += len(room.states.states) != outcome_before
    (times,) = {tuple(sorted(times.items())) for times in room.states.states.values()}
    assert {time for _, time in times} == {NOON}
    assert changes == 1


Choice = tuple[dict[str, str], int, str, bytes, str]
"""Signals, time, channel, subject and region."""
CHOICES = st.lists(
    st.tuples(
        st.sampled_from(
            [GRANTED, DENIED, {"cmp.marketing": "0"}, {"cmp.marketing": "1"}, tc(ALL, 0), tc(NONE, 0), tc(NONE, 1)]
        ),
        st.integers(-20, 0).map(lambda hour: NOON + hour * HOUR),
        st.sampled_from(["event", "choice", "webhook"]),
        st.sampled_from([USER, COOKIE]),
        st.sampled_from(["DE", "US"]),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=examples(60), deadline=None)
@given(CHOICES, st.randoms(use_true_random=False))
def test_the_order_in_which_choices_arrive_does_not_matter(choices: list[Choice], random: Random) -> None:
    """States and later decisions do not depend on the order of choices, by any channel."""

    def after(order: list[Choice]) -> tuple[dict[str, dict[str, int]], list[str]]:
        room = Room()
        for signals, time, channel, subject, region in order:
            both = {"identifiers": [USER.decode(), COOKIE.decode()]} if subject == USER else {}
            if channel == "webhook":
                room.signal(kind="choice", signals=signals, subject=subject.decode(), chosen_ts=time, received_ts=NOON + 1)
            elif channel == "choice":
                room.event(signals, time, subject, region=region, event_name="consent_update", **both)
            else:
                room.event(signals | at(time), NOON + 1, subject, region=region, **both)
        states = {key: dict(times) for key, times in room.states.states.items()}
        probes = [
            room.event(GRANTED, NOON + 2, subject, region=region) for subject in (USER, COOKIE) for region in ("DE", "US")
        ]
        return states, probes

    shuffled = list(choices)
    random.shuffle(shuffled)
    assert after(choices) == after(shuffled)


def test_no_state_is_written_for_visitors_who_only_agree() -> None:
    """An undated grant without `use_stored_state` stores nothing."""
    room = Room()
    assert room.event(GRANTED) == OK
    assert room.states.states == {}
    outcome = room.signal(kind="choice", signals=DENIED)
    assert len(records(outcome, STATE)) == 2


def test_refusals_of_other_partitions_are_known() -> None:
    """States of other identifiers are read from the partition of their records, and again a second later."""
    lookups: list[dict[int, list[str]]] = []

    class Elsewhere(MemoryStateStore):
        def read_elsewhere(self, keys: Mapping[int, Sequence[str]]) -> dict[str, Times | None]:
            lookups.append({partition: list(some) for partition, some in keys.items()})
            return super().read_elsewhere(keys)

    states = Elsewhere()
    dependencies = ConsentDependencies(b"k" * 32, states, Metrics(), lambda: None, partition_of=lambda subject: subject[1] % 7)
    stage = ConsentStage(REGISTRY, POLICY, dependencies)
    value = encode(REGISTRY.latest(RAW), raw(signals=GRANTED, identifiers=[USER.decode(), COOKIE.decode()]))

    def handle(now: float) -> str:
        outcome = stage.handle(Batch(RAW, 0, [USER], [value], [0]), now)
        return str(records(outcome, CONSENTED)[0]["consent_reasons"])

    assert "WITHDRAWN" not in handle(100.0)
    states.states[f"opt-in|shop.example|{COOKIE.decode()}"] = {"marketing.withdrawn": T}
    assert "WITHDRAWN" not in handle(100.5), "believed for a second"
    assert "marketing=WITHDRAWN" in handle(101.5)
    assert lookups == [{COOKIE[1] % 7: [f"opt-in|shop.example|{COOKIE.decode()}"]}] * 2


@given(st.lists(st.sampled_from([USER, COOKIE, PHONE, b"3" + b"aa" * 16]), unique=True, max_size=4))
def test_identifiers_are_read_from_the_bytes_of_an_event(nodes: list[bytes]) -> None:
    """All identifiers are read, also from an array that another writer has split into blocks."""
    room, contract = Room(), REGISTRY.latest(RAW)
    value = encode(contract, raw(identifiers=[node.decode() for node in nodes]))
    head = room.stage._open_cache(value).head
    begin = head.signals_end(value, head.read_one(value)[2])
    assert head.identifiers(value, begin) == nodes
    if nodes:
        array = b"\x02\x42" + nodes[0] + (b"%c" % (2 * (len(nodes) - 1)) if nodes[1:] else b"")
        array += b"".join(b"\x42" + node for node in nodes[1:]) + b"\x00"
        assert head.identifiers(value[:begin] + array + value[begin + 2 + 34 * len(nodes) :], begin) == nodes
