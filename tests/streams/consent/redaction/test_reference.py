"""What a stripped record keeps where marketing, personalization or analytics are denied."""

import json
from typing import Any

import pytest

from infra.errors import ConfigError
from infra.settings import PACKAGED_CONTRACTS
from schemas.codec import decode, encode
from schemas.registry import Registry
from streams.consent.policy import BITS, PACKAGED, load_policy, parse_policy
from streams.consent.redaction.click_ids import ClickIds
from streams.consent.redaction.fast import Rewriter
from streams.consent.redaction.reference import ContractShape, strip

REGISTRY = Registry(PACKAGED_CONTRACTS)
RAW = REGISTRY.latest("events.raw")
POLICY = load_policy(PACKAGED)
SHAPE = ContractShape(RAW)
CLICKS = ClickIds(POLICY.click_ids)
REWRITER = Rewriter(RAW, POLICY, CLICKS)


def stripped(mask: int, **fields: Any) -> dict[str, Any]:
    """A record with these fields, stripped as a record and as bytes."""
    event = SHAPE.blank() | fields
    record = strip(event, SHAPE, POLICY, mask, CLICKS)
    assert decode(REGISTRY, RAW.header + REWRITER.strip(encode(RAW, event), mask))[1] == record
    return record


def granted(*purposes: str) -> int:
    """The mask of these purposes."""
    return sum(BITS[purpose] for purpose in purposes)


@pytest.mark.parametrize(
    "field", [name for name, empty in SHAPE.empty.items() if isinstance(empty, str) and name != "event_id"]
)
def test_no_text_field_keeps_a_click_id(field: str) -> None:
    """Each text of the contract is searched, titles, names and versions too."""
    text = "https://x/?a=1&last_gclid=SECRET#/fbclid/SECRET"
    assert "SECRET" not in str(stripped(granted("analytics", "personalization"), **{field: text})[field])


def test_signals_lose_click_ids() -> None:
    """Signals lose click ids where marketing is denied, and stay as sent where it is granted."""
    signals = {"gcs": "G101", "cmp.marketing": "denied", "gclid": "A", "cmp.user.gclid": "A", "page": "https://x/?gclid=A&b=1"}
    cleaned = {"gcs": "G101", "cmp.marketing": "denied", "page": "https://x/?b=1"}
    assert stripped(granted("analytics", "personalization"), signals=signals)["signals"] == cleaned
    assert stripped(granted("analytics", "marketing"), signals=signals)["signals"] == signals


def test_without_analytics_only_signals_that_are_read_stay() -> None:
    """Other signals could identify a visitor."""
    signals = {"gcs": "G101", "cmp.analytics": "denied", "cmp.analytics#2": "granted", "tc_string": "x", "gpc": "1"}
    others = {"cmp.visitor": "5", "visitor_id": "5", "visitor_id#2": "6", "cmp.analytics.id": "5"}
    for mask in (0, granted("marketing"), granted("marketing", "personalization")):
        assert stripped(mask, signals=signals | others)["signals"] == signals
    assert stripped(granted("analytics"), signals=signals | others)["signals"] == signals | others


def test_decision_tokens_go_from_everywhere() -> None:
    """Decision tokens are removed where personalization is denied: at any depth, in addresses, in any spelling."""
    properties = {
        "a": json.dumps({"b": [{"decision_token": "SECRET", "c": 1}]}),
        "answer": '{"decisionToken":"SECRET","cut',
        "last.decision-token": "SECRET",
        "u": "https://x/?decision_token=SECRET&b=1",
        "plain": "decision 5 of a token",
    }
    address = "https://x/decision_token/SECRET?u=%3Fdecision%5Ftoken%3DSECRET&b=1"
    record = stripped(granted("analytics", "marketing"), properties=properties, page_url=address, page_referrer=address)
    assert "SECRET" not in str(record)
    cleaned = {"a": '{"b":[{"c":1}]}', "answer": '{"cut', "u": "https://x/?b=1", "plain": "decision 5 of a token"}
    assert record["properties"] == cleaned
    assert record["page_url"] == "https://x/?u=&b=1"
    granted_record = stripped(granted("analytics", "personalization"), properties=properties, page_url=address)
    assert (granted_record["properties"], granted_record["page_url"]) == (properties, address)


def test_a_repeated_event_is_stripped_alike() -> None:
    """Bytes that are cached as clean are not confused with others."""
    mask = granted("analytics", "personalization")
    for _ in range(2):
        assert stripped(mask, page_url="https://x/?a=1")["page_url"] == "https://x/?a=1"
        assert stripped(mask, page_url="https://x/?a=1&gclid=A")["page_url"] == "https://x/?a=1"
        assert stripped(mask, page_title="a", page_url="https://x/?gclid=A")["page_url"] == "https://x/"


@pytest.mark.parametrize("name", ["*", "_*", "gcl*id", "gclid**", "g", "a-b", "", "x" * 40])
def test_names_that_no_list_can_have(name: str) -> None:
    """A pattern has its star at the end and letters before it; the error names the line."""
    text = PACKAGED.read_text().replace("  - gclid\n", f"  - {json.dumps(name)}\n")
    with pytest.raises(ConfigError, match=r"line \d+: click_ids"):
        parse_policy(text, "policy.yaml")


def test_the_packaged_list_has_the_well_known_names() -> None:
    """Names that advertisers, affiliate networks and mail services document."""
    for name in (
        *("_ga", "_hsenc", "_hsmi", "_kx", "mkt_tok", "srsltid", "igshid", "__hstc", "vero_id", "cjevent", "obclid", "s_kwcid"),
        *(
            "_branch_match_id",
            "gcl_aw",
            "gad_source",
            "_gcl_gb",
            "_gac_UA-1-2",
            "ttclid",
            "ScCid",
            "dicbo",
            "FPGCLAW",
            "wickedid",
        ),
    ):
        assert CLICKS.clean_map({name: "A", "b": f"https://x/?{name}=A"}) == {"b": "https://x/"}


def test_products_and_traits_are_cleaned_like_properties() -> None:
    """Click ids and tokens leave the maps of an array, a map, and an array of texts; where granted, all stays as it was."""
    fields: dict[str, Any] = {
        "items": [
            {"item_id": "sku-1", "gclid": "SECRET", "url": "https://x/?fbclid=SECRET&b=1"},
            {"key": "gclid", "value": "SECRET"},
            {"item_id": "sku-2", "decision_token": "SECRET"},
        ],
        "user_properties": {"plan": "gold", "last_gclid": "SECRET", "decisionToken": "SECRET"},
        "problems": ["price: a number", "gclid", "SECRET", "https://x/?decision_token=SECRET"],
    }
    record = stripped(granted("analytics"), **fields)
    assert record["items"] == [{"item_id": "sku-1", "url": "https://x/?b=1"}, {"key": "gclid"}, {"item_id": "sku-2"}]
    assert record["user_properties"] == {"plan": "gold"}
    assert record["problems"] == []
    assert stripped(granted("analytics", "personalization", "marketing"), **fields).items() >= fields.items()
    emptied = stripped(granted("marketing", "personalization"), **fields)
    assert (emptied["items"], emptied["user_properties"], emptied["problems"]) == ([], {}, fields["problems"])
