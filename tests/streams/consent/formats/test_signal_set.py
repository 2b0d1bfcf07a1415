"""Signals of real senders: every usual spelling is read, unreadable values deny, and adding a refusal never adds a grant."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.consent.decision.decide import decide
from streams.consent.formats.consent_value import DENIALS, GRANTS
from streams.consent.formats.evidence import SignalReader
from streams.consent.formats.signal_names import fold
from streams.consent.formats.signal_set import SignalSet
from streams.consent.policy import BITS, PACKAGED, Policy, load_policy, parse_policy
from tests.streams.consent.strings import tc_string

POLICY = load_policy(PACKAGED)
NOW = 1_710_000_000_000
TC = {"gdpr_applies": "1", "tc_event_status": "tcloaded"}
ALL = {f"cmp.{purpose}": "granted" for purpose in BITS}
ANALYTICS, MARKETING, PERSONALIZATION = BITS.values()


def mask(signals: dict[str, str], region: str = "US", policy: Policy = POLICY) -> int:
    """Granted purposes as bits; silence grants in the region unless another is named."""
    return decide(policy, "page_view", SignalReader(policy).read(region, signals, NOW)).mask


def changed(old: str, new: str) -> Policy:
    """The packaged policy with one change."""
    assert old in PACKAGED.read_text()
    return parse_policy(PACKAGED.read_text().replace(old, new, 1), "p")


@pytest.mark.parametrize(
    "value", ["null", "[]", "{}", '["granted"]', '{"a":1}', "2", "-1", "0.5", "maybe", "", " ", "yes please"]
)
@pytest.mark.parametrize(
    "name", ["cmp.marketing", "Marketing", "cm.ad_storage", "C0004", "cmp.marketing.details", "ADVERTISING"]
)
def test_what_cannot_be_read_denies(name: str, value: str) -> None:
    """An unreadable value under a name that is mapped to marketing denies marketing alone, in any spelling."""
    assert mask({name: value}) & MARKETING == 0
    assert mask({name: value}) & ANALYTICS == ANALYTICS


@pytest.mark.parametrize("name", ["gcs", "gcd", "tc_string", "us_privacy", "gpp", "gpc", "consent", "x-ga-gcs"])
@pytest.mark.parametrize("value", ["null", "[]", "{}", "2", "true?", "denied"])
def test_a_standard_signal_that_cannot_be_read_denies(name: str, value: str) -> None:
    """An unreadable standard signal denies its purposes, whatever other signals grant."""
    for region in ("US", "DE"):
        assert mask({**ALL, **TC, name: value}, region) & MARKETING == 0


def test_an_empty_text_denies_unless_the_policy_says_that_it_is_silence() -> None:
    """An empty text is unreadable, and ignored with `signals.empty_denies: false`."""
    silent = changed("empty_denies: true", "empty_denies: false")
    for name in ("cmp.marketing", "gcs", "gpc", "tc_string", "cm.ad_storage"):
        assert mask({name: ""}) & MARKETING == (MARKETING if name == "gpc" else 0), name
        assert mask({name: ""}, policy=silent) == 7, name


@pytest.mark.parametrize(
    "signals",
    [
        {"gcs": "G111", "gcs#2": "G100"},
        {"gcs": "G100", "gcs#2": "G111"},
        {"gcd": "13r3r3r3r5", "x-ga-gcd": "13q3q3q3q5"},
        {"x-ga-gcd": "13r3r3r3r5", "gcd#2": "13q3q3q3q5", "gcd": "13r3r3r3r5"},
        {"cmp.marketing": "granted", "cmp.marketing#2": "denied"},
        {"cmp.marketing": "1", "CMP.Marketing": "0"},
        {"cm.ad_storage": "granted", "ad_storage": "denied"},
        {"adStorage": "granted", "cm.AD_STORAGE": "DENIED"},
        {"gpc": "0", "Sec-GPC": "1"},
        {"gpc": "1", "gpc#2": "0"},
        {"us_privacy": "1YNN", "usPrivacy": "1YYN"},
        {**TC, "tc_string": tc_string(), "tc_string#2": tc_string("10000001")},
        {**TC, "gpp": f"DBAA~{tc_string('10000001')}", "tc_string": tc_string()},
        {**TC, "gpp": f"DBAA~{tc_string()}", "tc_string": tc_string("10000001")},
        {**TC, "tc_string": tc_string(), "tc_event_status#2": "cmpuishown"},
    ],
)
def test_said_twice_the_strictest_counts(signals: dict[str, str]) -> None:
    """The strictest of several values counts in any order, also beside grants of everything."""
    for region in ("US", "DE"):
        assert mask({**ALL, **signals}, region) & MARKETING == 0


@pytest.mark.parametrize(
    "name",
    [
        "tcString", "TC_STRING", "tcf", "IABTCF_TCString", "euconsent-v2", "gdpr_consent", "tcf.tcString", "tcData.tcString",
        "Tc String",
    ],
)  # fmt: skip
@pytest.mark.parametrize(("applies", "status"), [("gdprApplies", "eventStatus"), ("gdpr_applies", "tcEventStatus")])
def test_tc_strings_are_read_under_every_usual_name(name: str, applies: str, status: str) -> None:
    """TC strings, `gdpr_applies` and the status are read under every usual name."""
    signals = {name: tc_string("10000001"), applies: "true", status: "tcloaded"}
    assert mask(signals, "DE") == ANALYTICS
    assert mask({**signals, status: "cmpuishown"}, "DE") == 0


@pytest.mark.parametrize(
    ("signals", "granted"),
    [
        ({"GPP": "DBABTA~1YYN"}, ANALYTICS),
        ({"gppString": "DBABTA~1YYN"}, ANALYTICS),
        ({"Sec-GPC": "1"}, ANALYTICS),
        ({"globalPrivacyControl": "true"}, ANALYTICS),
        ({"us_privacy": "1YYY"}, ANALYTICS),
        ({"usPrivacy": "1yyn"}, ANALYTICS),
        ({"us_privacy": "1YNN"}, 7),
        ({"us_privacy": "1---"}, 7),
        ({"npa": "1"}, 7 - PERSONALIZATION),
        ({"non_personalized_ads": "true"}, 7 - PERSONALIZATION),
        ({"npa": "0"}, 7),
        ({"Ad_Storage": "denied"}, 7 - MARKETING),
        ({"adUserData": "DENIED"}, 7 - MARKETING),
        ({"analytics storage": "denied"}, 7 - ANALYTICS),
        ({"Marketing": "Denied"}, 7 - MARKETING),
        ({"purposes.marketing": "false"}, 7 - MARKETING),
        ({"consent.analytics": "off"}, 7 - ANALYTICS),
        ({"cmp.all": "denied"}, 0),
        ({"cmp.all": "granted"}, 7),
        ({"gdpr": "0"}, 7),
        ({"gdpr": "denied"}, 0),
    ],
)
def test_spellings_of_signals(signals: dict[str, str], granted: int) -> None:
    """Names and words are compared without regard to case and to the usual spellings."""
    assert mask(signals) == granted


@pytest.mark.parametrize("value", [*DENIALS, "Opt-Out", "NOT GRANTED", "opted_out"])
def test_a_refusal_under_a_name_that_nothing_maps_denies_what_nothing_else_speaks_about(value: str) -> None:
    """Any usual word of refusal denies purposes without another signal, unless `signals.unmapped_refusals_deny` is off."""
    assert mask({"vendor-x": value}) == 0
    assert mask({"vendor-x": value, "cmp.analytics": "1"}) == ANALYTICS
    assert mask({"vendor-x": value, "cmp.analytics": "1"}, "DE") == ANALYTICS
    assert mask({"vendor-x": value}, policy=changed("unmapped_refusals_deny: true", "unmapped_refusals_deny: false")) == 7


@pytest.mark.parametrize("value", [*GRANTS, "Opt-In", "GRANTED"])
def test_a_grant_under_a_name_that_nothing_maps_grants_nothing(value: str) -> None:
    """A grant under an unmapped name changes nothing, and the name is listed as unmapped."""
    assert mask({"vendor-x": value, "cmp.vendor-y": value}, "DE") == 0
    assert SignalSet({"vendor-x": value}, POLICY.vocabulary).unmapped == ["vendor-x"]


def test_unmapped_names_are_told_as_they_were_sent() -> None:
    """Unmapped names are listed as sent; names that are read are not among them, in any spelling."""
    signals = {
        "gdprApplies": "0",
        "Sec-GPC": "0",
        "vendorX": "1",
        "cmp.Sales": "0",
        "C0002": "1",
        "platform": "p",
        "dma_cps": "a",
    }
    assert SignalReader(POLICY).read("US", signals, NOW).unmapped == ("vendorX", "cmp.Sales")


def test_policy_files_may_map_names_with_capitals_and_blanks() -> None:
    """Names in a policy are compared folded, so capitals and blanks do not matter."""
    policy = changed("cmp: [marketing,", 'cmp: ["Werbung & Partner", marketing,')
    assert mask({"cmp.werbung & partner": "0"}, policy=policy) & MARKETING == 0
    assert mask({"Werbung_&_Partner": "1"}, "DE", policy) == MARKETING


PLATFORMS: list[tuple[str, dict[str, str], int]] = [
    ("onetrust", {"C0001": "1", "C0002": "1", "C0003": "0", "C0004": "0"}, ANALYTICS),
    ("onetrust", {"OnetrustActiveGroups": ",C0001,C0003,"}, PERSONALIZATION),
    ("onetrust", {"OptanonConsent": "isGpcEnabled=0&datestamp=x&groups=C0001:1,C0002:1,C0003:1,C0004:0"}, 5),
    ("onetrust", {"groups": "C0001:1,C0002:0,C0003:0,C0004:1"}, MARKETING),
    ("onetrust", {"Targeting Cookies": "false", "Performance Cookies": "true"}, ANALYTICS),
    ("cookiebot", {"necessary": "true", "preferences": "false", "statistics": "true", "marketing": "false"}, ANALYTICS),
    ("cookiebot", {"CookieConsent": "{stamp:'x',necessary:true,preferences:true,statistics:false,marketing:false,ver:1}"}, 4),
    ("cookieyes", {"functional": "yes", "analytics": "no", "performance": "no", "advertisement": "yes"}, 6),
    ("cookieyes", {"cookieyes-consent": "consentid:a,consent:yes,action:yes,necessary:yes,functional:no,analytics:yes"}, 1),
    ("usercentrics", {"essential": "true", "functional": "true", "marketing": "false"}, PERSONALIZATION),
    ("didomi", {"cmp.cookies": "granted", "cmp.measure_ad_performance": "denied", "cmp.improve_products": "granted"}, 1),
    ("didomi", {"cmp.cookies": "denied", "cmp.improve_products": "granted"}, 0),
    ("complianz", {"functional": "allow", "statistics": "allow", "marketing": "deny", "preferences": "deny"}, ANALYTICS),
    ("klaro", {"klaro": '{"google-analytics":true,"facebook-pixel":false}'}, ANALYTICS),
    ("axeptio", {"google_analytics": "granted", "facebook_pixel": "denied"}, ANALYTICS),
    ("iubenda", {"purposes.1": "true", "purposes.4": "true", "purposes.5": "false"}, ANALYTICS),
    ("borlabs", {"essential": "1", "statistics": "1", "external-media": "0", "marketing": "0"}, ANALYTICS),
    ("segment", {"cmp.Advertising": "denied", "cmp.Analytics": "granted", "cmp.Functional": "granted"}, 5),
]


@pytest.mark.parametrize(("platform", "signals", "granted"), PLATFORMS)
def test_platforms_are_ready_mapped(platform: str, signals: dict[str, str], granted: int) -> None:
    """Under opt-in each platform's names grant what they mean and no more, whether or not the platform is named."""
    assert mask({**signals, "platform": platform.title()}, "DE") == granted
    assert mask(signals, "DE") & ~granted == 0


def test_where_platforms_differ_a_yes_is_what_all_mean_and_a_no_what_any_means() -> None:
    """`functional` needs no consent on one platform and is a purpose on others; numbers count only with a platform."""
    assert mask({"functional": "1"}, "DE") == 0
    assert mask({"functional": "0"}) & PERSONALIZATION == 0
    assert mask({"functional": "1", "platform": "cookieyes"}, "DE") == PERSONALIZATION
    assert mask({"4": "1"}, "DE") == 0
    assert mask({"4": "1", "platform": "iubenda"}, "DE") == ANALYTICS


def test_global_privacy_control_counts_where_the_policy_says() -> None:
    """GPC counts everywhere by default, else in the listed regions and where the region is unknown."""
    only = changed("gpc_regions: []", "gpc_regions: [US-CA, CA]")
    for region, granted in (("US-CA", 1), ("CA-QC", 1), ("", 1), ("US", 7), ("DE", 7)):
        assert mask({**ALL, "gpc": "1"}, region, only) == granted, region
        assert mask({**ALL, "gpc": "1"}, region) == 1


NAMES = st.sampled_from(
    [
        "cmp.analytics", "cmp.marketing", "cmp.personalization", "Marketing", "C0002", "C0004", "functional", "vendor-x",
        "cmp.y", "cm.ad_storage", "cm.analytics_storage", "ad_personalization", "gcs", "gcd", "gpc", "us_privacy", "npa", "gpp",
        "tc_string", "gdpr_applies", "tc_event_status", "platform", "consent", "groups", "OnetrustActiveGroups",
    ]
)  # fmt: skip
VALUES = st.sampled_from(
    [
        "granted", "denied", "1", "0", "maybe", "", "null", "{}", "G111", "G100", "13r3r3r3r5", "13q3q3q3q5", "1YNN", "1YYN",
        tc_string(), tc_string("0"), "DBABTA~1YNN", "tcloaded", "cookieyes", "C0002:1,C0004:0", ",C0002,",
    ]
)  # fmt: skip
SETS = st.dictionaries(NAMES, VALUES, max_size=6)
REFUSALS = st.tuples(
    st.sampled_from(["cmp.marketing", "ANALYTICS", "Ad Storage", "vendor-z", "cmp.else", "C0003", "cmp.all", "preferences"]),
    st.sampled_from(["denied", "0", "false", "No", "opt-out", "null", "{}", "rejected"]),
)
REGIONS = st.sampled_from(["US", "DE", "", "BR"])


@given(SETS, REFUSALS, REGIONS)
def test_adding_a_refusal_never_adds_a_grant(signals: dict[str, str], refusal: tuple[str, str], region: str) -> None:
    """No refusal adds a grant, under any name, in any spelling, beside any signals."""
    name, value = refusal
    while name in signals:
        name += "#2"
    assert mask({**signals, name: value}, region) & ~mask(signals, region) == 0


ANY_JSON: Any = st.recursive(
    st.none() | st.integers(2) | st.floats(1.5, 1e300) | st.text("wxz?", min_size=1, max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(SETS, ANY_JSON, st.data(), REGIONS)
def test_replacing_a_value_by_any_other_never_adds_a_grant(
    signals: dict[str, str], value: Any, data: st.DataObject, region: str
) -> None:
    """By nothing that is no word of consent: null, a list, an object, a number, another word; as the door writes it down."""
    choices = [name for name in signals if fold(name) not in ("platform", "gdprapplies", "vendorx", "consent")]
    if not choices:
        return
    name = data.draw(st.sampled_from(choices))
    text = value if isinstance(value, str) else json.dumps(value)
    assert mask({**signals, name: text}, region) & ~mask(signals, region) == 0
