"""Reasons and outcomes, by table and by property."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.consent.decision.decide import Action, ConsentDecision, decide, evidence_hash
from streams.consent.formats.evidence import SignalReader
from streams.consent.formats.reason import ConsentReason
from streams.consent.formats.signal_names import CONSENT_MODE_SIGNALS
from streams.consent.policy import BITS, PACKAGED, Policy, load_policy, parse_policy
from tests.streams.consent.strings import tc_string

POLICY = load_policy(PACKAGED)
ALL = {f"cmp.{purpose}": "granted" for purpose in BITS}
TC = {"gdpr_applies": "1", "tc_event_status": "tcloaded"}
NOW = 1_710_000_000_000
MODE_ALL = {"gcs": "G111", "gcd": "13r3r3r3r5"}


def decided(policy: Policy, name: str, region: str, signals: dict[str, str]) -> ConsentDecision:
    """The decision on an event of a subject without a stored state."""
    return decide(policy, name, SignalReader(policy).read(region, signals, NOW))


# region, signals, granted bits, reasons of (analytics, marketing, personalization)
TABLE: list[tuple[str, dict[str, str], int, str]] = [
    ("DE", {}, 0, "NO_SIGNAL NO_SIGNAL NO_SIGNAL"),
    ("", {}, 0, "NO_SIGNAL NO_SIGNAL NO_SIGNAL"),
    ("BR", {}, 0, "NO_SIGNAL NO_SIGNAL NO_SIGNAL"),
    ("US", {}, 7, "NO_SIGNAL NO_SIGNAL NO_SIGNAL"),
    ("US-CA", {}, 7, "NO_SIGNAL NO_SIGNAL NO_SIGNAL"),
    ("US", {"gdpr_applies": "1"}, 0, "NO_SIGNAL NO_SIGNAL NO_SIGNAL"),
    ("US", {"gdpr_applies": "what"}, 0, "NO_SIGNAL NO_SIGNAL NO_SIGNAL"),
    ("DE", {"gdpr_applies": "0"}, 0, "NO_SIGNAL NO_SIGNAL NO_SIGNAL"),
    ("DE", ALL, 7, "OK_CONSENT OK_CONSENT OK_CONSENT"),
    ("GB", {"cmp.analytics": "true", "cmp.marketing": "0"}, 1, "OK_CONSENT PURPOSE NO_SIGNAL"),
    ("DE", {"cmp.analytics": "1", "cmp.statistics": "false"}, 0, "PURPOSE NO_SIGNAL NO_SIGNAL"),
    ("US", {"cmp.marketing": "denied"}, 5, "NO_SIGNAL PURPOSE NO_SIGNAL"),
    ("US", {"cmp.marketing": "perhaps"}, 5, "NO_SIGNAL MALFORMED NO_SIGNAL"),
    ("DE", MODE_ALL, 7, "OK_CONSENT OK_CONSENT OK_CONSENT"),
    ("DE", {"gcs": "G100", "gcd": "13q3q3q3q5"}, 0, "PURPOSE PURPOSE PURPOSE"),
    ("DE", {"gcs": "G101", "gcd": "13q3r3q3q5"}, 1, "OK_CONSENT PURPOSE PURPOSE"),
    ("DE", {"gcs": "G111"}, 1, "OK_CONSENT NO_SIGNAL NO_SIGNAL"),
    ("US", {"gcs": "G100"}, 4, "PURPOSE PURPOSE NO_SIGNAL"),
    ("DE", {"gcd": "13t3t3t3t5"}, 0, "PENDING PENDING PENDING"),
    ("US", {"gcd": "13t3t3t3t5"}, 7, "OK_CONSENT OK_CONSENT OK_CONSENT"),
    ("DE", {"gcd": "13x3r3r3r5"}, 5, "OK_CONSENT MALFORMED OK_CONSENT"),
    ("DE", {"gcd": "13r3"}, 0, "MALFORMED MALFORMED MALFORMED"),
    ("US", {"gcs": "nonsense"}, 0, "MALFORMED MALFORMED MALFORMED"),
    ("DE", {f"cm.{name}": "granted" for name in CONSENT_MODE_SIGNALS}, 7, "OK_CONSENT OK_CONSENT OK_CONSENT"),
    ("DE", {**MODE_ALL, "cm.ad_user_data": "denied"}, 5, "OK_CONSENT PURPOSE OK_CONSENT"),
    # Consent Mode narrows what a platform's own words grant, and never adds to them.
    ("DE", {**ALL, "gcs": "G101", "gcd": "13q3r3q3q5"}, 1, "OK_CONSENT CONFLICT CONFLICT"),
    ("DE", {**MODE_ALL, "cmp.analytics": "granted"}, 1, "OK_CONSENT NO_SIGNAL NO_SIGNAL"),
    ("DE", {**ALL, "gpc": "1"}, 1, "OK_CONSENT GPC GPC"),
    ("US", {"gpc": "1"}, 1, "NO_SIGNAL GPC GPC"),
    ("US", {"gpc": "0"}, 7, "NO_SIGNAL NO_SIGNAL NO_SIGNAL"),
    ("US", {"gpc": "yes"}, 1, "NO_SIGNAL GPC GPC"),
    ("US", {"gpc": "perhaps"}, 1, "NO_SIGNAL MALFORMED MALFORMED"),
    # TC strings: all that they allow, and no more than Consent Mode beside them allows.
    ("DE", {**TC, "tc_string": tc_string()}, 7, "OK_CONSENT OK_CONSENT OK_CONSENT"),
    ("DE", {**TC, "tc_string": tc_string("10000001")}, 1, "OK_CONSENT PURPOSE PURPOSE"),
    ("DE", {**TC, "tc_string": tc_string("00000001")}, 0, "PURPOSE PURPOSE PURPOSE"),
    ("DE", {**TC, "tc_string": tc_string(updated_ms=1_500_000_000_000)}, 0, "STALE STALE STALE"),
    ("DE", {**TC, "tc_string": tc_string(updated_ms=1_800_000_000_000)}, 0, "FUTURE FUTURE FUTURE"),
    ("DE", {**TC, "tc_string": tc_string(policy=f"{2:06b}")}, 0, "VERSION VERSION VERSION"),
    ("DE", {**TC, "tc_string": tc_string(version=f"{1:06b}")}, 0, "VERSION VERSION VERSION"),
    ("DE", {**TC, "tc_string": "null"}, 0, "MALFORMED MALFORMED MALFORMED"),
    ("DE", {**ALL, **TC, "tc_string": "CPx"}, 0, "MALFORMED MALFORMED MALFORMED"),
    ("DE", {"tc_string": tc_string(), "gdpr_applies": "1"}, 0, "PENDING PENDING PENDING"),
    ("DE", {**TC, "tc_string": tc_string(), "tc_event_status": "cmpuishown"}, 0, "PENDING PENDING PENDING"),
    ("US", {"tc_string": tc_string(), "tc_event_status": "tcloaded"}, 0, "PENDING PENDING PENDING"),
    ("US", {"tc_string": "CPx", "gdpr_applies": "0"}, 7, "NO_SIGNAL NO_SIGNAL NO_SIGNAL"),
    # That the GDPR does not apply voids a string where it cannot apply, and no refusal where it does or may.
    ("BR", {"tc_string": "CPx", "gdpr_applies": "0", **MODE_ALL}, 7, "OK_CONSENT OK_CONSENT OK_CONSENT"),
    ("DE", {"tc_string": "CPx", "gdpr_applies": "0", **MODE_ALL}, 0, "MALFORMED MALFORMED MALFORMED"),
    ("DE", {**TC, "gdpr_applies": "0", "tc_string": tc_string(), **ALL}, 7, "OK_CONSENT OK_CONSENT OK_CONSENT"),
    ("DE", {**TC, "gdpr_applies": "0", "tc_string": tc_string()}, 0, "NO_SIGNAL NO_SIGNAL NO_SIGNAL"),
    ("GB", {**TC, "gdpr_applies": "0", "tc_string": tc_string("10000001"), **ALL}, 1, "OK_CONSENT CONFLICT CONFLICT"),
    ("", {**TC, "gdpr_applies": "0", "tc_string": tc_string("0"), **ALL}, 0, "CONFLICT CONFLICT CONFLICT"),
    ("DE", {**TC, "tc_string": tc_string(), **MODE_ALL}, 7, "OK_CONSENT OK_CONSENT OK_CONSENT"),
    ("DE", {**TC, "tc_string": tc_string(), "gcs": "G101", "gcd": "13q3r3q3q5"}, 1, "OK_CONSENT CONFLICT CONFLICT"),
    ("DE", {**TC, "tc_string": tc_string("0"), **MODE_ALL}, 0, "PURPOSE PURPOSE PURPOSE"),
    ("DE", {**TC, "tc_string": tc_string(), "gpc": "1"}, 1, "OK_CONSENT GPC GPC"),
    ("DE", {**TC, "tc_string": tc_string(), "cmp.marketing": "0"}, 5, "OK_CONSENT CONFLICT OK_CONSENT"),
    # A container's own words beside the sender's: the stricter ones count, whichever they are.
    ("DE", {**MODE_ALL, "x-ga-gcs": "G100"}, 4, "PURPOSE PURPOSE OK_CONSENT"),
    ("DE", {"gcs": "G100", "gcd": "13q3q3q3q5", "x-ga-gcs": "G111", "x-ga-gcd": "13r3r3r3r5"}, 0, "PURPOSE PURPOSE PURPOSE"),
    # GPP: US sections object or do not; the European one is a TC string; not to object is no consent.
    ("US", {"gpp": "DBABTA~1YNN"}, 7, "NO_SIGNAL OK_CONSENT OK_CONSENT"),
    ("US", {"gpp": "DBABTA~1YYN"}, 1, "NO_SIGNAL PURPOSE PURPOSE"),
    ("US", {"gpp": "DBABTA~1YYN", "gpc": "1"}, 1, "NO_SIGNAL GPC GPC"),
    ("US", {"gpp": "DBABTA~1YYN", "cmp.marketing": "1"}, 1, "NO_SIGNAL CONFLICT PURPOSE"),
    ("US", {"gpp": "DBABRg~BAAAAABA"}, 1, "NO_SIGNAL MALFORMED MALFORMED"),
    ("US", {"gpp": "nonsense"}, 1, "NO_SIGNAL MALFORMED MALFORMED"),
    ("DE", {"gpp": "DBABTA~1YNN"}, 0, "NO_SIGNAL NO_SIGNAL NO_SIGNAL"),
    ("DE", {"gpp": "DBABTA~1YNN", **MODE_ALL}, 7, "OK_CONSENT OK_CONSENT OK_CONSENT"),
    ("DE", {**ALL, "gpp": "DBABTA~1YYN"}, 1, "OK_CONSENT CONFLICT CONFLICT"),
    ("DE", {**TC, "gpp": f"DBABMA~{tc_string()}"}, 7, "OK_CONSENT OK_CONSENT OK_CONSENT"),
    ("DE", {**TC, "gpp": f"DBABMA~{tc_string('10000001')}"}, 1, "OK_CONSENT PURPOSE PURPOSE"),
    ("DE", {**TC, "gpp": "DBABMA~CPx"}, 0, "MALFORMED MALFORMED MALFORMED"),
    ("DE", {**TC, "gpp": "nonsense", "tc_string": tc_string()}, 1, "OK_CONSENT MALFORMED MALFORMED"),
]


@pytest.mark.parametrize(("region", "signals", "mask", "reasons"), TABLE)
def test_table_of_reasons(region: str, signals: dict[str, str], mask: int, reasons: str) -> None:
    """Each combination of region and signals grants what the table says, for the reason it says."""
    decision = decided(POLICY, "page_view", region, signals)
    assert " ".join(ruling.reason for ruling in decision.rulings) == reasons
    assert decision.mask == mask
    assert decision.action is (Action.PASS if mask == 7 else Action.STRIP if mask & 1 else Action.ANONYMISE)


DENIALS = st.sampled_from(
    [
        {"cmp.analytics": "denied"}, {"cmp.marketing": "0"}, {"cmp.personalization": "rubbish"}, {"gpc": "1"}, {"gpc": "?"},
        {"gcs": "G100"}, {"gcs": "G1"}, {"gcd": "13q3q3q3q5"}, {"gcd": "zz"}, {"cm.ad_user_data": "denied"},
        {"tc_string": "C"}, {"gpp": "D"}, {"gdpr_applies": "1"},
    ]
)  # fmt: skip
SIGNALS = st.fixed_dictionaries(
    {},
    optional={
        **{f"cmp.{name}": st.sampled_from(["granted", "denied", "x"]) for name in ("analytics", "statistics", "marketing")},
        "gcs": st.sampled_from(["G111", "G101", "G1-1", "?"]),
        "gcd": st.sampled_from(["13r3r3r3r5", "13t3t3t3t5", "13l3l3l3l5", "13r3q3r3v5"]),
        "cm.ad_storage": st.sampled_from(["granted", "denied"]),
        "gpc": st.sampled_from(["0", "1"]),
        "gdpr_applies": st.sampled_from(["0", "1"]),
    },
)


@given(SIGNALS, DENIALS, st.sampled_from(["DE", "US", ""]))
def test_adding_a_denial_never_adds_a_grant(signals: dict[str, str], denial: dict[str, str], region: str) -> None:
    """With one more denial, a subset of the purposes is granted. (A signal of the same name is not replaced.)"""
    before = decided(POLICY, "x", region, signals).mask
    after = decided(POLICY, "x", region, {**denial, **signals}).mask
    assert after & ~before == 0


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=12)), st.text(max_size=4), st.text(max_size=8))
def test_any_signals_get_a_decision(signals: dict[str, str], region: str, name: str) -> None:
    """No signal, region or name makes a decision fail, and equal input gets an equal one."""
    assert decided(POLICY, name, region, signals) == decided(POLICY, name, region, signals)


def test_rules_of_events() -> None:
    """An exact name beats a prefix, a longer prefix a shorter one; what no line matches is dropped as unmapped."""
    text = PACKAGED.read_text().replace(
        '"*": {requires: [analytics], on_deny: anonymise}',
        '"ad_*": {requires: [marketing], on_deny: drop}\n  ad_view: {requires: [], on_deny: drop}\n'
        '  "ad_order*": {requires: [analytics], on_deny: anonymise}',
    )
    policy = parse_policy(text, "p")
    denied = decided(policy, "ad_click", "DE", {"cmp.marketing": "denied"})
    assert (denied.action, denied.drop_reason) == (Action.DROP, ConsentReason.PURPOSE)
    assert decided(policy, "ad_view", "DE", {}).action is Action.STRIP
    assert decided(policy, "ad_order_x", "DE", {}).action is Action.ANONYMISE
    unmapped = decided(policy, "other", "DE", ALL)
    assert (unmapped.action, unmapped.drop_reason) == (Action.DROP, ConsentReason.UNMAPPED)


def test_a_policy_without_a_purpose_never_passes_it() -> None:
    """A purpose that the policy does not list is not granted and its fields are stripped, also when all others are granted."""
    head, _, rest = PACKAGED.read_text().partition("  personalization:\n")
    text = head + rest[rest.index("\n# IAB TCF") :]
    decision = decided(parse_policy(text, "p"), "x", "DE", ALL)
    assert (decision.mask, decision.action) == (3, Action.STRIP)


def test_evidence_is_the_same_in_any_order() -> None:
    """The hash of signals does not depend on their order."""
    assert evidence_hash({"a": "1", "b": "2"}) == evidence_hash({"b": "2", "a": "1"}) != evidence_hash({"a": "12", "b": ""})
    assert evidence_hash({}) == ""
