"""Consent of decisions: the consent stage's rules and ledger, and the region."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.decisions.app import build_dependencies
from consumers.decisions.consent import ConsentGate, ConsentQuery, ConsentRules, consent_policy
from consumers.decisions.service import Dependencies
from consumers.decisions.sites import SiteGroups
from infra.errors import ConfigError
from infra.settings import load_settings
from streams.collector.write_keys import create_key
from streams.consent.ledger.ledger import DAY_MS, Times, merge
from streams.consent.policy import PACKAGED, parse_policy
from streams.identity.nodes import NodeKeys, versions
from tests.streams.consent.strings import tc_string

NOW = 1_795_000_000_000
GRANTED = {"cmp.personalization": "granted"}
POLICY = parse_policy(PACKAGED.read_text(), "packaged")
STORED = parse_policy(PACKAGED.read_text().replace("use_stored_state: false", "use_stored_state: true"), "stored")
LIFTING = parse_policy(PACKAGED.read_text().replace("undated_grants_lift: false", "undated_grants_lift: true"), "lifting")
NODE = "2" + "a" * 32


def grants(signals: Mapping[str, str], region: str, times: Times, rules: ConsentRules | None = None) -> bool:
    """Return whether personalization is granted to a visitor with this stored state."""
    rules = rules or ConsentRules(POLICY)
    return rules.grants(rules.read_signals(region, signals, NOW), times, NOW)


@pytest.mark.parametrize(
    ("signals", "region", "granted"),
    [
        (GRANTED, "DE", True),
        (GRANTED, "", True),
        ({}, "DE", False),
        ({}, "", False),
        ({}, "US", True),
        ({}, "us-ca", True),
        ({}, "USA! anything", False),
        ({"gpc": "1"}, "US", False),
        (GRANTED | {"gpc": "1"}, "DE", False),
        ({"cmp.personalization": "denied"}, "US", False),
        ({"cmp.personalization": "yes please"}, "US", False),
        ({"cmp.analytics": "granted"}, "DE", False),
        ({"tc_string": "null"}, "US", False),
    ],
)
def test_only_the_consent_rooms_yes_is_a_yes(signals: Mapping[str, str], region: str, granted: bool) -> None:
    """Silence follows the region, denials and unreadable signals deny, and an unknown region is opt-in."""
    assert grants(signals, region, {}) is granted


def test_a_policy_that_does_not_load_stops_the_start(tmp_path: Path) -> None:
    """A missing policy file is a configuration error, never a grant."""
    with pytest.raises(ConfigError):
        consent_policy(load_settings(state_dir=tmp_path, policy=tmp_path / "missing.yaml"))


def personal(**times: int) -> Times:
    """Return a state of personalization."""
    return {f"personalization.{name}": time for name, time in times.items()}


HOUR = 3_600_000
DATED = GRANTED | {"chosen_ts": str(NOW - HOUR)}


@pytest.mark.parametrize(
    ("signals", "region", "times", "granted"),
    [
        (GRANTED, "DE", personal(withdrawn=NOW - DAY_MS), False),
        (GRANTED, "DE", personal(denied=NOW - DAY_MS), False),
        ({}, "US", personal(denied=NOW - DAY_MS), False),
        ({}, "US", personal(withdrawn=NOW - 300 * DAY_MS), False),
        (GRANTED, "DE", personal(denied=NOW - 3 * DAY_MS, granted=NOW - DAY_MS), True),
        (GRANTED, "DE", personal(denied=NOW - DAY_MS, granted=NOW - DAY_MS), False),
        (DATED, "DE", personal(denied=NOW - 2 * HOUR), True),
        (DATED, "DE", personal(withdrawn=NOW - 2 * HOUR), True),
        (DATED, "DE", personal(denied=NOW - HOUR + 1), False),
        (GRANTED | {"chosen_ts": str(NOW + DAY_MS)}, "DE", personal(denied=NOW - DAY_MS), False),
        (GRANTED | {"chosen_ts": "soon"}, "DE", personal(denied=NOW - DAY_MS), False),
        # Refusals of today by TC string are dated at the end of the day.
        (GRANTED, "DE", personal(denied=NOW // DAY_MS * DAY_MS + DAY_MS - 1), False),
        ({}, "US", personal(seen_denied=NOW - HOUR), False),
        (GRANTED, "DE", personal(seen_denied=NOW - HOUR), True),
        (GRANTED, "DE", {"marketing.withdrawn": NOW - DAY_MS}, True),
        (GRANTED, "DE", {"erased": NOW - DAY_MS}, True),
    ],
)
def test_a_remembered_refusal_beats_what_is_not_newer(
    signals: Mapping[str, str], region: str, times: Times, granted: bool
) -> None:
    """Only a later dated consent lifts a refusal, also where nothing was granted before."""
    assert grants(signals, region, times) is granted


def test_a_later_tc_string_lifts_a_refusal() -> None:
    """TC strings are dated by day: one of a later day lifts a refusal, one of the same day does not."""
    for days_ago, granted in ((2, True), (0, False)):
        refused = NOW // DAY_MS * DAY_MS - days_ago * DAY_MS + HOUR
        signals = {
            "gdpr_applies": "1", "tc_event_status": "tcloaded",
            "tc_string": tc_string("1" * 24, updated_ms=NOW // DAY_MS * DAY_MS),
        }  # fmt: skip
        assert grants(signals, "DE", personal(denied=refused)) is granted


def test_the_policy_says_whether_undated_grants_lift() -> None:
    """With `memory.undated_grants_lift` an undated grant of a page lifts every refusal."""
    assert grants(GRANTED, "DE", personal(denied=NOW - HOUR), ConsentRules(LIFTING))
    assert not grants(GRANTED, "DE", personal(denied=NOW - HOUR))


def test_stored_grants_count_where_the_policy_uses_them() -> None:
    """A stored grant counts for a page without signals only under `use_stored_state`."""
    assert grants({}, "DE", personal(granted=NOW - HOUR), ConsentRules(STORED))
    assert not grants({}, "DE", personal(granted=NOW - HOUR))


TIMES = st.dictionaries(
    st.sampled_from([f"{purpose}.{name}" for purpose in POLICY.purposes for name in ("granted", "denied", "withdrawn")]),
    st.integers(NOW - 500 * DAY_MS, NOW + DAY_MS),
    max_size=6,
)
SIGNALS = st.sampled_from([{}, GRANTED, DATED, {"cmp.personalization": "denied"}, {"gpc": "1"}, {"cmp.personalization": "?"}])


@given(TIMES, SIGNALS, st.sampled_from(["DE", "US", ""]), st.integers(NOW - 400 * DAY_MS, NOW))
def test_a_further_refusal_never_adds_a_grant(times: dict[str, int], signals: dict[str, str], region: str, at: int) -> None:
    """A further refusal never turns a denied decision into a granted one, with any state and signals."""
    refused = {**times, "personalization.denied": max(times.get("personalization.denied", 0), at)}
    assert grants(signals, region, refused) <= grants(signals, region, times)


SECRET = "for tests only, forty characters long..."
ROTATED = load_settings(secret=SECRET, node_key_version=2)
BOTH = load_settings(secret=SECRET, node_key_version=2, node_key_since=1)


def test_a_refusal_counts_after_a_key_rotation(folder: Path) -> None:
    """A refusal counts under any key version, and the visitor's group stays while both versions are in use."""
    first, second = versions(NodeKeys.of(ROTATED), "cookie", "c1")
    sites = SiteGroups(POLICY, folder / "write-keys.json", ())
    for refused in (first, second):
        gate = ConsentGate(ConsentRules(POLICY), sites, Ledger({refused: personal(withdrawn=NOW - HOUR)}))
        for settings in (ROTATED, BOTH):
            dependencies = build_dependencies(settings, gate)
            for value, granted in (("c1", False), ("c2", True)):
                query = ConsentQuery(GRANTED, "DE", "https://one.example", dependencies.identify_visitor(value).nodes)
                assert asyncio.run(answer(dependencies, query)) is granted
    gate = ConsentGate(ConsentRules(POLICY), sites, Ledger({}))
    assert build_dependencies(BOTH, gate).identify_visitor("c1").pseudonym == first
    assert build_dependencies(ROTATED, gate).identify_visitor("c1").pseudonym == second
    assert build_dependencies(BOTH, gate).identify_visitor("undefined") == (None, [])


async def answer(dependencies: Dependencies, query: ConsentQuery) -> bool:
    """Return whether a decision may be personal."""
    return await dependencies.grants_personalization(query, NOW)


class Ledger:
    """A ledger with states by node, equal on every site."""

    def __init__(self, by_node: Mapping[str, Times]) -> None:
        self.by_node = by_node

    async def read_states(self, _regulation: str, groups: Sequence[str], nodes: Sequence[str]) -> list[Times] | None:
        """Answer at once."""
        times: Times = {}
        for node in nodes:
            times = merge(times, self.by_node.get(node, {}))
        return [times for _ in groups]


class States:
    """A ledger with the visitor's states by group of sites; None = it is unreadable."""

    def __init__(self, by_group: Mapping[str, Times] | None) -> None:
        self.by_group = by_group
        self.questions: list[tuple[str, Sequence[str], Sequence[str]]] = []

    async def read_states(self, regulation: str, groups: Sequence[str], nodes: Sequence[str]) -> list[Times] | None:
        """Answer at once."""
        self.questions.append((regulation, groups, nodes))
        return None if self.by_group is None else [self.by_group.get(group, {}) for group in groups]


def decided(states: States, folder: Path, rules: ConsentRules | None = None, **changes: Any) -> bool:
    """Ask a gate with two sites once."""
    sites = SiteGroups(POLICY, folder / "write-keys.json", ())
    query = ConsentQuery(GRANTED, "DE", "https://one.example", [NODE])._replace(**changes)
    return asyncio.run(ConsentGate(rules or ConsentRules(POLICY), sites, states).grants_personalization(query, NOW))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with write keys of two sites."""
    for site in ("one.example", "two.example"):
        create_key(tmp_path / "write-keys.json", site.partition(".")[0], site=site)
    return tmp_path


def test_a_page_is_asked_about_its_own_site(folder: Path) -> None:
    """A refusal counts on its site, and on every site where the request has no origin."""
    states = States({"two.example": personal(denied=NOW - HOUR)})
    assert decided(states, folder)
    assert not decided(states, folder, origin="https://TWO.example:8443")
    assert not decided(states, folder, origin="")
    assert [groups for _, groups, _ in states.questions] == [("one.example",), ("two.example",), ("one.example", "two.example")]


def test_a_view_that_cannot_be_read_denies(folder: Path) -> None:
    """While the ledger is unreadable neither a page's grant nor an opt-out region's silence counts."""
    assert not decided(States(None), folder)
    assert not decided(States(None), folder, signals={}, region="US")


def test_without_any_known_site_nothing_is_granted(tmp_path: Path) -> None:
    """A request without an origin could be of any site where no write key is known."""
    assert not decided(States({}), tmp_path, origin="")
    assert decided(States({}), tmp_path)


def test_the_ledger_is_read_only_where_the_answer_depends_on_it(folder: Path) -> None:
    """A page that refuses and a visitor without nodes need no lookup; lookups use the visitor's regime."""
    states = States({})
    assert not decided(states, folder, signals={})
    assert not decided(states, folder, signals=GRANTED | {"gpc": "1"})
    assert decided(states, folder, nodes=[])
    assert states.questions == []
    assert decided(states, folder, signals={}, region="US")
    assert not decided(states, folder, ConsentRules(STORED), signals={})
    assert [regulation for regulation, _, _ in states.questions] == ["opt-out", "opt-in"]
