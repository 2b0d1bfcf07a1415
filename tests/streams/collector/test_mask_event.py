"""Masks in the records of one event and of one choice."""

from collections import Counter
from typing import Any

import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from infra.secrets import Secret
from infra.settings import PACKAGED_CONTRACTS
from schemas.codec import Record, encode
from schemas.registry import Contract, Registry
from streams.collector.event import ProtocolEvent
from streams.collector.masking import mask_choice
from streams.collector.masking.field_names import Category, category_of
from streams.collector.normalise import MAX_TEXT, Normaliser, RequestContext
from streams.collector.protocols.choices import SentChoice
from streams.identity.nodes import NodeKeys

KEYS = NodeKeys.derive(Secret("for tests only, forty characters long..."))
RAW = Registry(PACKAGED_CONTRACTS).latest("events.raw")
NOW = 1_795_514_401_000


def record(contract: Contract = RAW, ip: str = "", **fields: Any) -> tuple[str, Record, Counter[str]]:
    """Return the key, the record and how often each field was masked."""
    masked: Counter[str] = Counter()
    event = ProtocolEvent(fields.pop("name", "x"), "headwater", **fields)
    key, written = Normaliser(contract, KEYS).build_record(
        event, RequestContext("web", "shop.example", NOW, ip=ip), lambda name: masked.update([name])
    )
    encode(contract, written)  # it fits
    return key, written, masked


def test_each_field_that_leaks_is_counted_once_and_by_a_name_that_does_not() -> None:
    """The names of properties are masked before they become labels of a metric."""
    _, written, masked = record(
        name="mail to ada@example.org", page_url="https://x.example/?m=ada%40example.org",
        user_agent="App/1.0 (ada@example.org)", click_ids={"gclid": "ada@example.org"}, tag_version="ada@example.org/1.2.3.4",
        properties={"ada@example.org": "yes", "b": 1},
    )  # fmt: skip
    assert masked == Counter(["event_name", "page_url", "user_agent", "gclid", "tag_version", "[email]"])
    assert written["properties"] == {"[email]": "yes", "b": "1"}
    assert (written["tag_version"], written["click_ids"]) == ("[email]/1.2.3.4", {"gclid": "[email]"})


def test_names_that_are_masked_alike_do_not_replace_each_other() -> None:
    """They are numbered in the order in which they were sent, signals too."""
    twice = {"a@x.example": "1", "b@x.example": "0", "c": {"d@x.example": 1, "e@x.example": 2}}
    _, written, _ = record(properties=twice, signals={"a@x.example": "granted", "b@x.example": "denied"})
    assert written["properties"] == {"[email]": "1", "[email]#2": "0", "c": '{"[email]":1,"[email]#2":2}'}
    assert written["signals"] == {"[email]": "granted", "[email]#2": "denied"}


def test_ids_that_hold_an_address_keep_events_and_orders_apart() -> None:
    """Different ids get different pseudonyms, and retries get the same one."""
    first, again, other = (
        record(event_id=f"{person}@example.org-1", order_id=f"{person}@example.org")[1] for person in ("ada", "ada", "eve")
    )
    assert first["event_id"] == again["event_id"] != other["event_id"]
    assert first["order_id"] == again["order_id"] != other["order_id"]
    assert first["order_id"].startswith("[email]#")
    assert len(record(order_id="x" * 500 + " ada@example.org")[1]["order_id"]) == 128


def test_the_key_of_an_event_without_identifiers_is_the_masked_id() -> None:
    """The record's key contains no address either."""
    key, written, _ = record(event_id="ada@example.org-1")
    assert key == written["event_id"]
    assert "ada" not in key


@pytest.mark.parametrize(
    ("page_url", "site"),
    [
        ("https://www.shop.example/a?m=ada@example.org", "www.shop.example"),
        ("https://ada@example.org/", "example.org"),
        ("https://ada%40example.org/", "shop.example"),
        ("https://203.0.113.9/", "shop.example"),
        ("http://127.0.0.1:8080/", "127.0.0.1"),
    ],
)
def test_a_host_that_shows_an_address_is_no_site(page_url: str, site: str) -> None:
    """The key's site replaces it, so that consent stays separate by site."""
    assert record(page_url=page_url, ip="127.0.0.1")[1]["site"] == site


def test_nested_values_stay_json_with_their_types() -> None:
    """Only personal values are replaced; numbers, flags, nulls and the order of members stay."""
    items = [{"id": 1, "price": 9.5, "email": True, "note": 'call "+49 30 901820"', "user": {"id": 7712345, "plan": None}}]
    _, written, masked = record(properties={"items": items, "screen": "1920x1080"})
    assert orjson.loads(written["properties"]["items"]) == [
        {"id": 1, "price": 9.5, "email": True, "note": 'call "[phone]"', "user": {"id": "[user id]", "plan": None}}
    ]
    assert masked == Counter(["items"])


def test_client_session_loses_the_user_and_keeps_the_session() -> None:
    """The user id in Snowplow's session entity is masked."""
    session = {"userId": "8c2f-user", "sessionId": "5d1b-session", "sessionIndex": 3, "firstEventId": "e-1"}
    _, written, _ = record(properties={"entity.client_session": session})
    assert orjson.loads(written["properties"]["entity.client_session"]) == session | {"userId": "[user id]"}


def test_numbers_that_are_the_events_own_ids_are_masked() -> None:
    """An identifier that is repeated as a number under another name is masked."""
    ids = [("user", "7712345"), ("cookie", "1122334455.169")]
    _, written, _ = record(
        identifiers=ids, properties={"a": 7712345, "b": [7712345], "c": 1122334455.169, "d": 77123456, "e": 12}
    )
    assert written["properties"] == {"a": "[id]", "b": '["[id]"]', "c": "[id]", "d": "77123456", "e": "12"}


@pytest.mark.parametrize("spelling", ["+49 30 901820-47", "00493090182047", "493090182047", "030 90182047", "030/90 18 20 47"])
def test_an_events_own_phone_is_masked_without_its_prefix(spelling: str) -> None:
    """The national form of the event's own phone number is masked under any name."""
    _, written, _ = record(identifiers=[("phone", "+49 30 90182047")], properties={"note": f"call {spelling} now", "n": 3})
    assert written["properties"]["note"] == "call [phone] now"


def test_the_visitors_address_is_masked_where_a_version_is_possible() -> None:
    """The sender's address is masked in places where it could be a version."""
    _, written, _ = record(
        ip="11.12.13.14", properties={"app_version": "11.12.13.14", "v": "App/11.12.13.14", "w": "1.12.13.14"}
    )
    assert written["properties"] == {"app_version": "[ip]", "v": "App/[ip]", "w": "1.12.13.14"}


@pytest.mark.parametrize("junk", ["undefined", "anonymous", "(not set)"])
def test_junk_is_no_id_of_the_event(junk: str) -> None:
    """Placeholders that tags send instead of an id stay in ordinary texts."""
    assert record(identifiers=[("user", junk)], page_title=f"It is {junk}")[1]["page_title"] == f"It is {junk}"


def test_short_ids_are_not_looked_for() -> None:
    """Ids of five characters occur in words by chance."""
    assert record(identifiers=[("user", "boots")], page_title="Winter boots")[1]["page_title"] == "Winter boots"


@pytest.mark.parametrize("before", range(MAX_TEXT - 20, MAX_TEXT + 3))
def test_no_address_is_cut_in_two_before_it_is_masked(before: int) -> None:
    """An address that crosses a field's limit is masked before the field is truncated."""
    text = "x" * before + " quokka.wombat@numbat.example"
    _, written, _ = record(
        page_url=text, page_title=text, properties={"note": text, "deep": [text]}, tag_version=text, currency=text
    )
    assert "quokka" not in str(written)
    assert len(written["page_title"]) <= MAX_TEXT


def test_a_field_that_the_contract_took_over_is_masked_too() -> None:
    """A contract's new field is filled from the masked properties."""
    fields = [
        *RAW.schema["fields"],
        {"name": "contact", "type": "string", "default": ""},
        {"name": "extra", "type": {"type": "map", "values": "string"}, "default": {}},
    ]
    grown = Contract("events.raw", 2, 99, {**RAW.schema, "fields": fields}, None)
    _, written, _ = record(grown, properties={"contact": "ada@example.org", "extra": {"a": "+49 30 901820", "uid": "u"}})
    assert (written["contact"], written["extra"]) == ("[email]", {"a": "[phone]", "uid": "[user id]"})


def test_consent_strings_and_choices_pass_as_they_were_sent() -> None:
    """Consent to e-mails and calls has the names of addresses and numbers, but contains none."""
    signals = {
        "tc_string": "CQAbcdAAQAbcdABENA0EgAAAAAAAAAAAAAqIAAAAAAAA.YAAAAAAAAAAA",
        "gpp": "DBABMA~CPXxRfAPXxRfAAfKABENB-CgAAAAAAAAAAYg",
        "gcd": "13t3t3t3t5l1", "cmp.email": "denied", "cmp.phone": "opted out", "cmp.sms": "0",
        "chosen_ts": "2026-11-24T10:00:00+01:00",
        "platform_version": "1.20.30.4", "groups": ",C0001:1,C0002:0,", "gdpr_applies": "1",
    }  # fmt: skip
    assert record(signals=signals)[1]["signals"] == signals


def test_persons_in_signals_are_masked() -> None:
    """Names, texts and JSON texts of a choice's signals are masked."""
    signals = {
        "subject": "ada@example.org",
        "user_id": "ada",
        "email": "ada@",
        "json": '{"phone":"030 901820"}',
        "cmp.x": "denied",
    }
    assert record(signals=signals)[1]["signals"] == {
        "subject": "[email]", "user_id": "[user id]", "email": "[email]", "json": '{"phone":"[phone]"}', "cmp.x": "denied",
    }  # fmt: skip


def test_a_choice_is_masked_and_keeps_its_identifiers() -> None:
    """Identifiers stay for the pseudonyms, and a site with an address is replaced by the key's."""
    choice = SentChoice(
        [("user", "account-17")], "choice", {"note": "account-17", "cmp.x": "0"}, (), None, "ada@example.org", "e"
    )
    masked: list[str] = []
    shown = mask_choice(choice, "", masked.append)
    assert (shown.signals, shown.site, shown.identifiers) == ({"note": "[id]", "cmp.x": "0"}, "", choice.identifiers)
    assert masked == ["note"]


@pytest.mark.parametrize(
    ("name", "category"),
    [
        *((name, Category.USER_ID) for name in ("user_id", "uid", "x.client-id", "ga_client_id", "domain_userid", "_gid")),
        *((name, Category.EMAIL) for name in ("mail", "user_email", "emails", "sha256_email_address", "user_data[email]")),
        *((name, Category.PHONE) for name in ("tel", "phone_number", "customerPhone", "mobileNumber", "Rufnummer", "telefono")),
        *((name, Category.IP) for name in ("ip", "clientIp", "ip_address", "X-Forwarded-For", "uip", "IPv4")),
        *((name, Category.PERSONAL) for name in ("firstName", "user_data.address.city", "billing_address", "dob", "street")),
        *((name, Category.VERSION) for name in ("app_version", "version", "osVersion", "build")),
        *((name, Category.CODE) for name in ("gtin", "item_id", "productId", "sku")),
        *(
            (name, Category.OTHER)
            for name in (
                "session_id", "order_id", "transaction_id", "promotion_id", "is_mobile", "has_email", "email_campaign",
                "utm_email_id_x", "microphone", "hotel", "headphones", "zip", "tip", "vip", "ship", "chip", "guide", "fluid",
                "name", "item_name", "screen_name", "page_address", "product_name", "brand_name", "user_type",
                "number_of_users", "client", "valid", "paid", "grid", "membership", "detail", "thumbnail",
                "retail", "email_type", "phone_model",
                "device_type", "identity",
            )
        ),
    ],
)  # fmt: skip
def test_names_are_classified(name: str, category: Category) -> None:
    """Names are classified in any case, with any separators and prefixes."""
    assert category_of(name) is category


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.sampled_from(["email", "uid", "a"]), inner)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=8), JSON, max_size=5), st.sampled_from(["quokka@numbat.example", "+49 30 9018 2047"]))
def test_any_json_hides_no_address_and_stays_json(properties: dict[str, Any], secret: str) -> None:
    """Masked nested JSON stays valid, whatever is beside an address."""
    assume("9018" not in orjson.dumps(properties).decode())  # in a number of another's making it is no part of the secret
    nested = {"deep": [properties, {"note": secret, secret: properties}], **properties}
    _, written, _ = record(properties=nested)
    assert "quokka" not in str(written)
    assert "9018" not in written["properties"]["deep"]
    assert len(orjson.loads(written["properties"]["deep"])) == 2
