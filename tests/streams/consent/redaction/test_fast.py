"""Redacted bytes equal the redacted and encoded record."""

import re
import sys
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.settings import PACKAGED_CONTRACTS
from schemas.codec import Undecodable, decode, encode
from schemas.fast.head_columns import MIN_BATCH
from schemas.registry import Contract, Registry
from streams.consent.policy import BITS, PACKAGED, load_policy
from streams.consent.redaction.click_ids import ClickIds
from streams.consent.redaction.decoded_text import FOREIGN
from streams.consent.redaction.fast import Rewriter
from streams.consent.redaction.reference import ContractShape, anonymise, strip
from tests.support.scale import examples

REGISTRY = Registry(PACKAGED_CONTRACTS)
RAW = REGISTRY.latest("events.raw")
POLICY = load_policy(PACKAGED)
CLICKS = ClickIds(POLICY.click_ids)
SHAPE = ContractShape(RAW)
REWRITER = Rewriter(RAW, POLICY, CLICKS)
SLOW = [HealthCheck.too_slow]  # the machine may be busy; that says nothing about redaction
NO_MARKETING = sum(BITS.values()) & ~BITS["marketing"]

SHAPES = [
    "https://x.example/?gclid=SECRET&q=1",
    "https://x.example/?next=https%3A%2F%2Fy.example%2F%3Ffbclid%3DSECRET",
    '{"gclid": "SECRET", "a": [1, {"FBP": "SECRET"}]}',
    '{"\\u0067clid": "SECRET"}',
    "gclid",
    "50 % off",
    "?mscl\u212aid=SECRET&a=1",
    "a=b;GBRAID[0]=SECRET",
    '{"a": 1.10, "user": {"lastGclid": "SECRET"}, "cut": "of',
    '[{"key": "x-gclid", "value": "SECRET"}, {"key": "b"',
    "?d=%257B%2522gclid%2522%253A%2522SECRET%2522%257D&b=1",
    "https://x.example/gclid/SECRET/p;_ga=SECRET?p[ttclid][]=SECRET&utm[gclid] = SECRET",
    "?a=1&amp;gclid=SECRET&amp;b=1",
    "\\u0026gclid\\u003dSECRET\\u0026b=1",
    "?\uff27clid=SECRET&g\u200bclid=SECRET",
    "_gcl_aw=SECRET; gcl-x=SECRET; eagle=1",
    '{"answer": {"decision_token": "SECRET", "b": 2}, "t": "?decisionToken=SECRET"}',
    "https://x.example/?decision_token=SECRET&b=1#decision-token=SECRET",
    "?a=1&%" + "%3" * 12 + "67clid=SECRET",
    "gro\u00dfe Gr\u00fc\u00dfe \u2026 \U0001d454",
]
TEXT = (
    st.text(max_size=40)
    | st.sampled_from(SHAPES)
    | st.lists(st.sampled_from([*SHAPES, "&", "/", " "]), max_size=3).map("".join)
)
NAMES = st.sampled_from(
    ["gclid", "decision_token", "Decision_Token", "note", "url", "last_gclid", "user.fbclid", "p[gclid]", "key", "value"]
)
SIGNALS = st.sampled_from(["gcs", "cmp.marketing", "cmp.marketing#2", "gpc", "cmp.visitor", "visitor_id", "tc_string"])
TEXTS = st.dictionaries(NAMES | SIGNALS | TEXT, TEXT, max_size=6)


def value_of(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of an Avro type that events.raw has."""
    if isinstance(kind, dict) and kind["type"] == "map":
        return TEXTS
    if isinstance(kind, dict) and kind["type"] == "array":
        return st.lists(value_of(kind["items"]), max_size=2)
    name = kind["type"] if isinstance(kind, dict) else kind
    return {
        "string": TEXT,
        "boolean": st.booleans(),
        "long": st.integers(-(2**62), 2**62),
        "double": st.floats(allow_nan=False),
    }[name]


EVENTS = st.fixed_dictionaries({field["name"]: value_of(field["type"]) for field in RAW.schema["fields"]})


@settings(suppress_health_check=SLOW)
@given(EVENTS, st.integers(0, 7))
def test_stripping_bytes_is_stripping_the_record(event: dict[str, Any], mask: int) -> None:
    """For any event and any granted purposes, both ways give the same bytes."""
    value = encode(RAW, event)
    expected = encode(RAW, strip(decode(REGISTRY, value)[1], SHAPE, POLICY, mask, CLICKS))
    assert RAW.header + REWRITER.strip(value, mask) == expected


@settings(suppress_health_check=SLOW)
@given(EVENTS)
def test_anonymising_bytes_is_anonymising_the_record(event: dict[str, Any]) -> None:
    """Both ways keep the allow-list and nothing else."""
    value = encode(RAW, event)
    expected = encode(RAW, anonymise(decode(REGISTRY, value)[1], SHAPE, POLICY, "0" * 32))
    assert RAW.header + REWRITER.anonymise(value, "0" * 32) == expected


@settings(max_examples=examples(50), deadline=None, suppress_health_check=SLOW)
@given(st.lists(EVENTS, min_size=1, max_size=3), st.integers(0, 7))
def test_many_are_rewritten_as_each_alone(events: list[dict[str, Any]], mask: int) -> None:
    """Results do not depend on whether ends were found together, nor on what is cached."""
    values = [encode(RAW, event) for event in events]
    values = [*values, values[0][:-1], values[0] + b"x", b"", RAW.header, *(values * MIN_BATCH)[:MIN_BATCH]]
    alone = Rewriter(RAW, POLICY, CLICKS)
    for value, ends in zip(values, REWRITER.ends(values), strict=True):
        assert rewritten(REWRITER.strip, value, mask, ends) == rewritten(alone.strip, value, mask)
    ids = [f"{at:032x}" for at in range(len(values))]
    for value, new_id, anonymous in zip(values, ids, REWRITER.anonymise_many(values, ids), strict=True):
        assert anonymous in (None, rewritten(alone.anonymise, value, new_id))


def test_ordinary_events_are_anonymised_together() -> None:
    """All are anonymised together; one with a time of ten bytes is not."""
    event = {field["name"]: SHAPE.empty[field["name"]] for field in RAW.schema["fields"]}
    event |= {"event_name": "purchase", "region": "US-CA", "collector_ts": 1_790_000_000_000, "event_ts": 1_790_000_000_000}
    values = [encode(RAW, event | {"page_title": "x" * n}) for n in range(MIN_BATCH)]
    odd = encode(RAW, event | {"event_ts": 2**62})
    ids = [f"{at:032x}" for at in range(MIN_BATCH + 1)]
    *data, alone = REWRITER.anonymise_many([*values, odd], ids)
    assert data == [REWRITER.anonymise(value, new_id) for value, new_id in zip(values, ids, strict=False)]
    assert alone is None


def rewritten(rewrite: Callable[..., bytes], *args: Any) -> bytes | None:
    """The rewritten bytes; None where they are undecodable."""
    try:
        return rewrite(*args)
    except Undecodable:
        return None


@pytest.mark.parametrize("change", [lambda v: v[:-1], lambda v: v + b"x"])
def test_broken_events_are_refused(change: Any) -> None:
    """An event that ends too early or too late is undecodable, not rewritten."""
    value = encode(RAW, {field["name"]: SHAPE.empty[field["name"]] for field in RAW.schema["fields"]})
    with pytest.raises(Undecodable):
        REWRITER.strip(change(value), 0)


@pytest.mark.parametrize("time", [-(2**63), 2**63 - 1])
def test_times_that_nobody_lives_in_are_data_at_fault(time: int) -> None:
    """Such an event is undecodable or rewritten; no other error is raised."""
    event = {field["name"]: SHAPE.empty[field["name"]] for field in RAW.schema["fields"]} | {"event_ts": time}
    value = encode(RAW, event)
    assert REWRITER.strip(value, 0)
    if time < 0:
        with pytest.raises(Undecodable, match="out of range"):
            REWRITER.anonymise(value, "0" * 32)
    else:
        assert REWRITER.anonymise(value, "0" * 32)


def test_a_token_in_other_letters_goes_too() -> None:
    """The Kelvin sign is a `k` where case does not matter."""
    event = {field["name"]: SHAPE.empty[field["name"]] for field in RAW.schema["fields"]}
    event |= {"properties": {"decision_to\u212aen": "x", "plan": "b"}}
    mask = BITS["analytics"] | BITS["marketing"]
    stripped = decode(REGISTRY, RAW.header + REWRITER.strip(encode(RAW, event), mask))[1]
    assert stripped["properties"] == {"plan": "b"}


def test_a_field_of_an_unusual_type_is_rewritten_too() -> None:
    """A contract may have nullable fields and floats: their ends are found by reading them."""
    fields = [
        *RAW.schema["fields"],
        {"name": "plan", "type": ["null", "string"], "purpose": "marketing", "default": None, "doc": "Plan."},
        {"name": "share", "type": "float", "purpose": "analytics", "default": 0.0, "doc": "Share."},
    ]
    contract = Contract("events.raw", 99, 99, {**RAW.schema, "fields": fields}, None)
    event = {name: SHAPE.empty[name] for name in RAW.names} | {"plan": "gold", "share": 0.5}
    rewriter = Rewriter(contract, POLICY, CLICKS)
    stripped = contract.header + rewriter.strip(encode(contract, event), 1)
    assert stripped == encode(contract, event | {"plan": None})


def test_letters_that_count_as_ascii_are_all_known() -> None:
    """Every letter that equals an ASCII letter where case is ignored makes the quick check positive."""
    unusual = {chr(c) for c in range(128, sys.maxunicode + 1) if re.fullmatch("[a-z]", chr(c), re.IGNORECASE)}
    unusual |= {chr(c) for c in range(128, sys.maxunicode + 1) if chr(c).lower().isascii()}
    unusual |= {
        chr(c) for c in range(128, sys.maxunicode + 1) if re.fullmatch("[A-Za-z]+", unicodedata.normalize("NFKC", chr(c)))
    }
    assert len(unusual) > 500
    assert all(FOREIGN.search(letter) for letter in unusual)


@pytest.mark.parametrize(
    "text",
    ["?gclid=1", "?GCLID=1", "?mscl\u212aid=1", "#a;awc[0]=1", "?a=b&\u017fccid=2", "?x=%67clid%3d1", "?a=1&b=2&_gl=1*2"],
)
def test_no_spelling_of_a_parameter_gets_by(text: str) -> None:
    """The quick check passes nothing that cleaning would change."""
    blank = {name: SHAPE.empty[name] for name in RAW.names}
    event = {**blank, "page_url": f"https://shop.example/{text}", "properties": {"url": text, "note": "plain"}}
    expected = strip(event, SHAPE, POLICY, NO_MARKETING, CLICKS)
    assert expected["page_url"] != event["page_url"]
    assert expected["properties"] != event["properties"]
    assert RAW.header + REWRITER.strip(encode(RAW, event), NO_MARKETING) == encode(RAW, expected)
