"""A choice that the consent stage could not read is refused with the name of the field, and its bytes are kept."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.payload_keyring import PayloadKeyring
from infra.secrets import Secret
from infra.settings import PACKAGED_CONTRACTS
from infra.telemetry.metrics import Metrics
from schemas.codec import decode
from schemas.registry import Registry
from streams.collector.fields.repeated_keys import loads
from streams.collector.intake import Intake, IntakeResult
from streams.collector.normalise import RequestContext
from streams.collector.protocols import choices, own
from streams.collector.signals.choice_rules import MAX_SITES, ChoiceRules, KnownSites, signal_problem
from streams.collector.signals.policy_source import PolicySource
from streams.collector.signals.signals import SignalBuilder
from streams.collector.write_keys import WriteKeyStore, create_key, revoke_keys
from streams.consent.policy import PACKAGED, load_policy, parse_policy
from streams.identity.nodes import NodeKeys
from streams.runtime.dead_letters.dead_letter import open_letter

SECRET = Secret("for tests only, forty characters long...")
POLICY = load_policy(PACKAGED)
NOW = 1_795_514_401_000
TC = "CQp3NcAQp3NcAAHABAAAAJFgAP___wAAAAAAAPP____wAAAAA.IAPP____w"
GPP = "DBABL~BVVqAAAAAWA"
REGISTRY = Registry(PACKAGED_CONTRACTS)


class Door:
    """The intake of choices, without HTTP."""

    def __init__(self, folder: Path, policy: str = "") -> None:
        self.keys = folder / "write-keys.json"
        create_key(self.keys, "web", site="Shop.Example.")
        create_key(self.keys, "app", site="app.example")
        self.policy = folder / "policy.yaml"
        self.policy.write_text(policy or PACKAGED.read_text())
        self.payload_keys = PayloadKeyring(folder / "keyring", SECRET)
        self.rules = ChoiceRules(PolicySource(self.policy), WriteKeyStore(self.keys))
        self.intake = Intake(REGISTRY, self.payload_keys, NodeKeys.derive(SECRET), Metrics(), self.rules)

    def accept(self, *items: Any, body: bytes = b"") -> IntakeResult:
        """Process items of one request."""
        return self.intake.accept_choices(items, choices.parse_item, RequestContext("web", "shop.example", NOW), body)

    def problem(self, **item: Any) -> str:
        """Return why one choice is refused; empty where it is accepted."""
        result = self.accept({"client_id": "c", **item})
        assert (result.accepted, len(result.refused)) in ((1, 0), (0, 1))
        return result.refused[0][1] if result.refused else ""

    def letters(self, result: IntakeResult) -> list[bytes]:
        """Return the bytes of a request's dead letters."""
        dead = [decode(REGISTRY, record.value)[1] for record in result.records if record.topic == "events.dead"]
        return [open_letter(letter, self.payload_keys)[1] for letter in dead]

    def choices(self, result: IntakeResult) -> list[dict[str, Any]]:
        """Return the records of `consent.signals`."""
        return [decode(REGISTRY, record.value)[1] for record in result.records if record.topic == "consent.signals"]


@pytest.fixture
def door(tmp_path: Path) -> Door:
    """An intake with two keys and the packaged policy."""
    return Door(tmp_path)


FINAL = {"tc_event_status": "useractioncomplete", "gdpr_applies": "1"}


@pytest.mark.parametrize(
    "consent",
    [
        {"cmp.marketing": False}, {"cmp.marketing": "Denied"}, {"cmp.marketing": 0}, {"cmp": {"marketing": "granted"}},
        {"gcs": "G100"}, {"gcs": " G1-0 "}, {"gcd": "13q3q3q3q5l1"}, {"cm.ad_storage": "denied"}, {"ad_storage": False},
        {"gpc": True}, {"gpc": "1"}, {"gpp": GPP}, {"tc_string": TC, **FINAL},
        {"tc_string": f" {TC}\n", "tc_event_status": "tcloaded", "gdpr_applies": True}, {"disabled": ["marketing", "ads"]},
        {"cmp.marketing": "0", "platform": "acme", "platform_version": "7"}, {"CMP.Marketing": "0"},
        {"gdprApplies": 1, "TcString": TC, "tcEventStatus": "tcloaded"}, {"C0004": False}, {"marketing": "no"},
        {"OnetrustActiveGroups": ",C0001,"}, {"us_privacy": "1YYN"}, {"do_not_sell": True}, {"cmp.all": "rejected"},
    ],
)  # fmt: skip
def test_choices_that_are_understood(door: Door, consent: dict[str, Any]) -> None:
    """Each readable choice is accepted, with one record for its one subject."""
    result = door.accept({"client_id": "c", "consent": consent})
    assert (result.accepted, result.refused, result.warnings) == (1, [], [])
    assert len(door.choices(result)) == 1


@pytest.mark.parametrize(
    ("consent", "field", "advice"),
    [
        ({"cmp.tracking": "0"}, "cmp.tracking", "cmp.marketing"),
        ({"cmp.marketing": "0", "C0099": "0"}, "C0099", "cmp.marketing"),
        ({"sales": "0", "gcs": "G100"}, "sales", "cmp.marketing"),
        ({"cmp.marketing": "perhaps"}, "cmp.marketing", "granted or denied"),
        ({"cmp.marketing": ""}, "cmp.marketing", "granted or denied"),
        ({"cmp.marketing": None}, "cmp.marketing", "granted or denied"),
        ({"cmp.marketing": [False]}, "cmp.marketing", "granted or denied"),
        ({"cmp.marketing": {"value": False}}, "cmp.marketing", "granted or denied"),
        ({"cm.ad_storage": "hardly"}, "cm.ad_storage", "granted or denied"),
        ({"ad_storage": None}, "cm.ad_storage", "granted or denied"),
        ({"cm.storage": "denied"}, "cm.storage", "cm.<Consent Mode signal>"), ({"gcs": "G2"}, "gcs", "G100"),
        ({"gcs": ""}, "gcs", "G100"), ({"gcs": None}, "gcs", "G100"), ({"gcd": "13q3"}, "gcd", "gcd"),
        ({"gcd": "13z3z3z3z5"}, "gcd", "gcd"), ({"gpp": "1YNN"}, "gpp", "GPP string"), ({"gpp": ""}, "gpp", "GPP string"),
        ({"gpc": "maybe"}, "gpc", "1 or 0"), ({"gpc": None}, "gpc", "1 or 0"),
        ({"tc_string": "CQ", **FINAL}, "tc_string", "TCF string"),
        ({"tc_string": TC, "gdpr_applies": "1"}, "tc_event_status", "tcloaded or useractioncomplete"),
        ({"tc_string": TC, "tc_event_status": "tcloaded"}, "gdpr_applies", "send 1"),
        ({"tc_string": TC, **FINAL, "tc_event_status": "cmpuishown"}, "tc_event_status", "tcloaded or useractioncomplete"),
        ({"tc_string": TC, **FINAL, "gdpr_applies": "perhaps"}, "gdpr_applies", "1 or 0"),
        ({"tc_string": TC, **FINAL, "gdpr_applies": False}, "gdpr_applies", "must be 1"),
        ({"tc_string": TC, **FINAL, "gdpr_applies": 1, "gdprApplies": 0}, "gdpr_applies", "must be 1"),
        ({"gpp": f"DBABMA~{TC}"}, "tc_event_status", "beside gpp"),
        ({"cmp.marketing": "0", "tc_event_status": "soon"}, "tc_event_status", "tcloaded"),
    ],
)  # fmt: skip
def test_choices_that_are_not_understood(door: Door, consent: dict[str, Any], field: str, advice: str) -> None:
    """The problem names the field and what to send, and the bytes become a dead letter."""
    item = {"client_id": "c", "consent": consent}
    result = door.accept(item)
    ((_, message),) = result.refused
    assert f"consent.{field}" in message
    assert advice in message
    assert (result.accepted, door.choices(result)) == (0, [])
    assert [json.loads(letter) for letter in door.letters(result)] == [item]


@pytest.mark.parametrize("consent", ["denied", None, [], 7, {}, {"platform": "acme"}, {"sales": False}])
def test_choices_without_a_choice(door: Door, consent: Any) -> None:
    """A choice without any known signal is refused."""
    assert "consent" in door.problem(consent=consent)


@pytest.mark.parametrize(
    "consent", [{"gcs": "G1--"}, {"gcd": "13l3l3l3l5"}, {"gpc": "0"}, {"gpc": False, "gcs": "G1--", "platform": "acme"}]
)
def test_choices_that_leave_everything_open(door: Door, consent: dict[str, Any]) -> None:
    """A choice that grants and denies nothing is refused."""
    assert "neither yes nor no" in door.problem(consent=consent)


def test_a_second_word_is_judged_too(door: Door) -> None:
    """Both values of a repeated key are kept; where one is unreadable the choice is refused."""
    both = loads(b'{"client_id":"c","consent":{"cmp.marketing":"1","cmp.marketing":"0"}}')
    assert door.choices(door.accept(both))[0]["signals"] == {"cmp.marketing": "1", "cmp.marketing#2": "0"}
    raw = b'{"client_id":"c","consent":{"cmp.marketing":"hm","cmp.marketing":"1"}}'
    result = door.accept(loads(raw))
    assert "consent.cmp.marketing" in result.refused[0][1]
    assert door.letters(result) == [raw]


def test_a_dead_letter_holds_the_bytes_that_were_sent(door: Door) -> None:
    """The body of a single choice is kept byte for byte, with whitespace and repeated keys."""
    raw = b'{ "client_id" : "c",\n "consent": {"cmp.x": 1.0, "cmp.x": "\\u0031"} }'
    assert door.letters(door.accept(loads(raw), body=raw)) == [raw]


def test_a_batch_is_taken_as_far_as_it_is_understood(door: Door) -> None:
    """Each item is validated on its own."""
    good, bad = {"client_id": "c", "consent": {"gcs": "G100"}}, {"client_id": "d", "consent": {"gcs": "?"}}
    result = door.accept(good, bad, good)
    assert (result.accepted, [place for place, _ in result.refused]) == (2, [1])
    assert len(door.choices(result)) == 2
    assert [json.loads(letter) for letter in door.letters(result)] == [bad]


def test_messages_hold_no_value_and_no_address(door: Door) -> None:
    """Messages contain masked, truncated names and no values."""
    message = door.problem(consent={"gcs": "G100", "cmp.ada@example.org": "SECRET", "cmp.é": "x"})
    assert "ada" not in message
    assert "SECRET" not in message
    assert len(door.problem(consent={"gcs": "G100", "x" * 9_000: "x"})) < 500


def test_a_withdrawal_needs_no_signals(door: Door) -> None:
    """A withdrawal is accepted with any signals."""
    result = door.accept({"client_id": "c", "kind": "withdrawal", "consent": {"x": "y"}})
    assert result.accepted == 1


@pytest.mark.parametrize(
    "site",
    [
        "shop.example", "SHOP.example", "https://shop.example/", "shop.example:443", "shop.example.", "//shop.example/a?b#c",
        "", None, "https://ada:pw@shop.example:8443/x",
    ],
)  # fmt: skip
def test_spellings_of_a_site(door: Door, site: Any) -> None:
    """The site is normalised as events' hosts are; the default is the key's."""
    result = door.accept({"client_id": "c", "kind": "withdrawal", "site": site})
    assert [record["site"] for record in door.choices(result)] == ["shop.example"]


@pytest.mark.parametrize("site", ["app.example", "www.shop.example", "a.b.shop.example"])
def test_sites_of_keys_and_beneath_them_are_known(door: Door, site: str) -> None:
    """The site of any key and its subdomains are known."""
    assert door.problem(kind="withdrawal", site=site) == ""


@pytest.mark.parametrize(
    "site", ["shop.example.evil.example", "myshop.example", "example", 7, "https://", "a b", ["shop.example"], "ü.example"]
)
def test_unknown_sites_are_refused(door: Door, site: Any) -> None:
    """An unknown site is refused, and the message names only the sites of this source's keys."""
    message = door.problem(kind="withdrawal", site=site)
    assert "site" in message
    assert "app.example" not in message


def test_the_answer_names_the_sources_sites(door: Door) -> None:
    """The message says what to send instead."""
    assert door.problem(kind="withdrawal", site="x.example").endswith("shop.example")


def test_hosts_of_events_are_known(door: Door) -> None:
    """The host of an event is a known site, in every spelling."""
    assert door.problem(kind="withdrawal", site="new.example")
    event = {"event_name": "x", "page_location": "https://New.Example.:443/a"}
    assert door.intake.accept_events([event], own.parse_item, RequestContext("web", "shop.example", NOW)).accepted == 1
    assert door.problem(kind="withdrawal", site="new.example") == ""


def test_hosts_of_events_are_bounded(tmp_path: Path) -> None:
    """The number of hosts is bounded; the oldest are removed."""
    sites = KnownSites(WriteKeyStore(tmp_path / "none.json"), PolicySource(None))
    for n in range(MAX_SITES + 1):
        sites.add(f"h{n}.example")
    assert not sites.includes("h0.example")
    assert sites.includes("h1.example")
    assert sites.includes(f"h{MAX_SITES}.example")


def test_a_revoked_keys_site_is_unknown(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write keys are reloaded at runtime."""
    assert door.problem(kind="withdrawal", site="app.example") == ""
    revoke_keys(door.keys, "app")
    monkeypatch.setattr("streams.collector.write_keys.CHECK_S", 0.0)
    assert door.problem(kind="withdrawal", site="app.example")


def grouped(names: str) -> str:
    """Return the packaged policy with a group of sites."""
    return PACKAGED.read_text().replace("site_groups: {}", f"site_groups: {{family: [{names}]}}")


def test_sites_of_groups_are_known(tmp_path: Path) -> None:
    """Sites of the policy's groups are known, in every spelling."""
    door = Door(tmp_path, grouped("one.example, Zwei.Example"))
    assert [door.problem(kind="withdrawal", site=site) for site in ("one.example", "zwei.example", "family")] == ["", "", ""]
    assert door.problem(kind="withdrawal", site="three.example")


def test_a_new_policy_counts_at_once_and_a_broken_one_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of a newer policy are known; an invalid file leaves the previous policy in force."""
    monkeypatch.setattr("streams.collector.signals.policy_source.CHECK_S", 0.0)
    door = Door(tmp_path)
    assert door.problem(consent={"cmp.tracking": "0"})

    def write(text: str) -> None:
        aside = door.policy.with_suffix(".new")
        aside.write_text(text)
        os.utime(aside, ns=(time.time_ns(), time.time_ns()))
        aside.replace(door.policy)

    write(PACKAGED.read_text().replace("cmp: [marketing,", "cmp: [tracking, marketing,"))
    assert door.problem(consent={"cmp.tracking": "0"}) == ""
    write("purposes: [")
    assert door.problem(consent={"cmp.tracking": "0"}) == ""
    assert door.problem(consent={"cmp.unheard": "0"})


@pytest.mark.parametrize(
    "value", [1_795_000_000_017, 1_795_000_000.017, "1795000000017", "2026-11-18T11:06:40.017Z", "2026-11-18T11:06:40.017"]
)
def test_times_of_choices(door: Door, value: Any) -> None:
    """The time is read in each usual form, beside the signals or among them."""
    consent = {"cmp.marketing": "0"}
    for item in ({"consent": consent, "chosen_ts": value}, {"consent": {**consent, "chosen_ts": value}}):
        result = door.accept({"client_id": "c", **item})
        assert ([record["chosen_ts"] for record in door.choices(result)], result.warnings) == ([1_795_000_000_017], [])


@pytest.mark.parametrize("value", ["yesterday", "0001-01-01T00:00:00Z", -1, True, [1], {"at": 1}, "1970-01-01", 1e30])
def test_times_that_cannot_be_read(door: Door, value: Any) -> None:
    """A choice is accepted undated, a withdrawal with the current time, each with a warning."""
    choice = door.accept({"client_id": "c", "consent": {"cmp.marketing": "0"}, "chosen_ts": value})
    withdrawal = door.accept({"client_id": "c", "kind": "withdrawal", "chosen_ts": value})
    assert [record["chosen_ts"] for record in door.choices(choice)] == [choices.UNDATED]
    assert [record["chosen_ts"] for record in door.choices(withdrawal)] == [NOW]
    for result in (choice, withdrawal):
        ((place, message),) = result.warnings
        assert (result.accepted, place) == (1, 0)
        assert "chosen_ts" in message


def test_a_choice_without_a_time_is_of_now(door: Door) -> None:
    """A choice without a time is dated now."""
    result = door.accept({"client_id": "c", "consent": {"cmp.marketing": "0"}, "chosen_ts": None})
    assert ([record["chosen_ts"] for record in door.choices(result)], result.warnings) == ([NOW], [])


def test_without_a_policy_nothing_is_understood(door: Door) -> None:
    """Without a policy every choice is refused."""
    intake = Intake(REGISTRY, door.payload_keys, NodeKeys.derive(SECRET), Metrics())
    result = intake.accept_choices(
        [{"client_id": "c", "kind": "withdrawal"}], choices.parse_item, RequestContext("web", "shop.example", NOW)
    )
    assert (result.accepted, len(result.refused)) == (0, 1)


@given(
    st.dictionaries(st.sampled_from(["cmp.marketing", "gcs", "gpp", "gpc", "tc_string", "x"]), st.text(max_size=30), min_size=1)
)
def test_judging_never_raises(consent: dict[str, str]) -> None:
    """Any input gives a message or an empty text, and an unknown name always gives a message."""
    signals = SignalBuilder()
    signals.add_consent(consent)
    problem = signal_problem(signals.as_map(), POLICY, NOW)
    assert problem or "x" not in consent


def test_the_result_lists_the_covered_sites(door: Door) -> None:
    """A choice covers the site with and without `www.`, or the sites of the policy's group."""
    assert door.accept({"client_id": "c", "kind": "withdrawal"}).sites == {"shop.example", "www.shop.example"}
    assert POLICY.group("www.shop.example") == POLICY.group("shop.example")
    grouped = parse_policy(PACKAGED.read_text().replace("site_groups: {}", "site_groups: {g: [a.example, b.example]}"), "p")
    assert (
        grouped.sites("www.a.example")
        == grouped.sites("b.example")
        == sorted(["a.example", "b.example", "www.a.example", "www.b.example"])
    )
