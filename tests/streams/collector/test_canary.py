"""A canary (e-mail address, phone number, IP address, user id) in every spelling, in every field of every protocol.

A sample by default; `HEADWATER_CANARY=full` writes every spelling into every field.
"""

import html
import itertools
import json
import os
import random
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from infra.payload_keyring import PayloadKeyring
from infra.secrets import Secret
from infra.settings import PACKAGED_CONTRACTS
from infra.telemetry.metrics import Metrics
from schemas.codec import decode
from schemas.registry import Registry
from streams.collector.event import Item
from streams.collector.intake import Intake
from streams.collector.normalise import RequestContext
from streams.collector.protocols import ga4, gtag, own, segment, snowplow
from streams.collector.protocols.choices import parse_item as parse_choice
from streams.identity.nodes import NodeKeys

SPELLINGS = 200
REGISTRY = Registry(PACKAGED_CONTRACTS)
SECRET = Secret("for tests only, forty characters long...")
FULL = os.environ.get("HEADWATER_CANARY") == "full"

Spell = Callable[[str], str]


@dataclass(frozen=True)
class Canary:
    """A secret, its forms in clear, and its traces, which no record may contain in decoded text or in its digits."""

    kind: str
    forms: tuple[str, ...]
    traces: tuple[str, ...]
    digits: tuple[str, ...] = ()


EMAILS = Canary(
    "email",
    (
        "quokka.wombat@numbat.example", "Quokka+Shop@NUMBAT.example", '"quokka wombat"@numbat.example',
        "quokka@numbät.example", "quökka.wombat@numbat.example", "quokka@mail.abt.haus.stadt.land.numbat.example",
        "wombat@numbat.рф", "quokka_wombat-17@xn--numbt-gra.example",
    ),
    ("quokka", "wombat", "numb"),
)  # fmt: skip
PHONES = Canary(
    "phone",
    (
        "+49 30 90182047", "+493090182047", "0049 30 90182047", "00493090182047", "+49 (0) 30 901820-47", "+49.30.90.18.20.47",
        "+49/30/90182047", "+49-30-9018-2047", "+49\u00a030\u00a090182047", "+49\u202f30\u200990182047", "(+49) 30 90182047",
        "+49\u201330\u201390182047", "+49\u201130\u201190182047",
    ),
    (),
    ("90182047",),
)  # fmt: skip
IPS = Canary(
    "ip",
    ("203.0.113.77", "198.51.100.77", "::ffff:203.0.113.77"),
    ("203.0.113.77", "198.51.100.77"),
    ("203011377", "1985110077"),
)
IPV6S = Canary(
    "ipv6", ("2001:db8:85a3::8a2e:370:7334", "[2001:db8:85a3::8a2e:370:7334]"), ("85a3::8a2e", "8a2e:370", "8a2e:0370")
)
USERS = Canary("user", ("quokka-778899", "quokka/778899", "quokka 778899"), ("quokka",), ("778899",))


def full_width(text: str) -> str:
    """Printable ASCII as full-width letters."""
    return "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in text)


def arabic_digits(text: str) -> str:
    """Digits as Arabic-Indic digits."""
    return text.translate({ord("0") + digit: 0x660 + digit for digit in range(10)})


def every_byte(text: str) -> str:
    """Every byte percent-encoded."""
    return "".join(f"%{byte:02X}" for byte in text.encode())


SPELLS: tuple[Spell, ...] = (
    str,
    str.upper,
    lambda text: quote(text, safe=""),
    lambda text: quote(quote(text, safe=""), safe=""),
    lambda text: quote(quote(quote(text, safe=""), safe=""), safe=""),
    lambda text: quote(text, safe="").lower(),
    every_byte,
    lambda text: quote(every_byte(text)),
    full_width,
    arabic_digits,
    lambda text: text.replace("@", "＠").replace("+", "＋"),
    lambda text: text.replace("@", "﹫"),
    lambda text: text.replace("@", "&#64;").replace("+", "&#43;"),
    lambda text: text.replace("@", "&commat;").replace("+", "&plus;").replace(":", "&colon;").replace(".", "&period;"),
    lambda text: text.replace("@", "&#x40;").replace("+", "&#x2B;"),
    lambda text: text.replace("@", "&#00064").replace("+", "&#00043;"),
    lambda text: html.escape("".join(f"&#{ord(char)};" for char in text)),
    lambda text: "".join(f"\\u{ord(char):04x}" for char in text),
    lambda text: text.replace("@", "\\u0040").replace("+", "\\u002B"),
    lambda text: text.replace("@", "\\\\u0040").replace("+", "\\\\u002b"),
    lambda text: text.replace("@", "\\x40").replace("+", "\\x2b"),
    "\u200b".join,
    "\u00ad".join,
    lambda text: text[:4] + "%E2%80%8B" + text[4:],
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: quote(unicodedata.normalize("NFD", text)),
    lambda text: quote(full_width(text)),
    lambda text: quote("".join(f"&#{ord(char)};" for char in text)),
    lambda text: text.replace("@", " (at) "),
    lambda text: text.replace("@", "[at]"),
    lambda text: text.replace("@", "%u0040").replace("+", "%u002B"),
)

FRAMES = (
    "{}",
    "mail to {} please",
    "https://shop.example/?q={}&x=1",
    "https://shop.example/find?u=https%3A%2F%2Fother.example%2F%3Fm%3D{}",
    "({})",
    "<{}>",
    "a=1; b={}; c=2",
    "contact:{},",
)


def spellings(canary: Canary) -> list[str]:
    """Return 200 texts that each contain a canary, the same in each run."""
    every = [frame.format(spell(form)) for form, spell, frame in itertools.product(canary.forms, SPELLS, FRAMES)]
    chosen = sorted(set(every))
    random.Random(16).shuffle(chosen)
    return chosen[:SPELLINGS]


def own_events(text: str) -> Iterator[dict[str, Any]]:
    """Yield an event of own JSON for each field."""
    texts = (
        "event_id", "page_location", "page_title", "page_referrer", "user_agent", "tag_version", "order_id", "currency",
        "decision_token", "gclid", "x-ga-gcs", "note", "tier", "session_id", "group_id", "language", "screen_resolution",
        "timezone", "event_ts", "value", "ip_override", "country",
    )  # fmt: skip
    yield {"event_name": "x", "items": [{"item_id": text, text: text}]}
    yield {"event_name": "x", "user_properties": {"note": text, text: [text]}}
    yield {"event_name": "x", "items": [{text: "y" * 5_000}], text: "y" * 5_000, "user_properties": {text: "y" * 5_000}}
    yield from ({"event_name": "x", name: text} for name in texts)
    yield {"event_name": text}
    yield {"event_name": "x", text: "named"}
    for name, value in (("consent", {"subject": text}), ("consent", {text: "denied"}), ("consent", {"cmp.x": text})):
        yield {"event_name": "x", name: value}
    yield {
        "event_name": "x",
        "properties": {"deep": {"er": [{"note": text}, text]}, "list": [text], "deeper": {text: {text: 1}}},
    }
    yield {"event_name": "x", "payload": json.dumps({"note": text, text: 1}), "twice": json.dumps({"a": json.dumps([text])})}
    yield {"event_name": "x", "page_location": f"https://shop.example/{quote(text)}/x#{text}"}


def segment_events(text: str) -> Iterator[dict[str, Any]]:
    """Yield a Segment call for each field."""
    yield {"type": "track", "event": text}
    yield {"type": "track", "event": "x", "messageId": text}
    for name in ("order_id", "currency", "decision_token", "fbclid", "url", "title", "referrer", "coupon", text):
        yield {"type": "track", "event": "x", "properties": {name: text}}
    for context in (
        {"page": {"url": text, "title": text, "referrer": text}}, {"userAgent": text},
        {"library": {"name": text, "version": "1"}},
        {"library": {"name": "js", "version": text}}, {"consent": {"categoryPreferences": {text: False, "a": text}}},
    ):  # fmt: skip
        yield {"type": "page", "context": context}
    yield {"type": "identify", "traits": {"note": text}, "context": {"traits": {"note": text}}}


def ga4_items(text: str) -> Iterator[dict[str, Any]]:
    """Yield a Measurement Protocol event for each field."""
    names = (
        "event_id", "page_location", "page_title", "page_referrer", "transaction_id", "currency", "decision_token", "gcs",
        "gcd", "wbraid", "search_term", text,
    )  # fmt: skip
    for name in names:
        yield {"shared": {}, "event": {"name": "x", "params": {name: text}}}
    yield {"shared": {"consent": {"ad_user_data": text, text: "GRANTED"}}, "event": {"name": text if len(text) <= 40 else "x"}}
    yield {"shared": {"device": {"user_agent": text}, "user_agent": text}, "event": {"name": "x"}}
    yield {"shared": {}, "event": {"name": "x", "params": {"items": [{"item_name": text, "sizes": [text]}]}}}


def snowplow_items(text: str) -> Iterator[dict[str, Any]]:
    """Yield a Snowplow event for each field, as in POST and GET."""
    iglu = "iglu:com.snowplowanalytics.snowplow"
    for name in ("url", "page", "refr", "ua", "tv", "eid"):
        yield {"e": "pv", name: text}
    for name in ("se_ca", "se_ac", "se_la", "se_pr"):
        yield {"e": "se", name: text}
    for name in ("tr_id", "tr_af", "tr_ci", "tr_cu", "ti_sk", "ti_nm"):
        yield {"e": "tr", name: text}
    data = {
        "schema": f"{iglu}/link_click/jsonschema/1-0-0",
        "data": {"targetUrl": text, "order_id": text, "inner": {text: [text]}},
    }
    yield {"e": "ue", "ue_pr": json.dumps({"schema": f"{iglu}/unstruct_event/jsonschema/1-0-0", "data": data})}
    entities = [
        {"schema": "iglu:com.headwater/consent/jsonschema/1-0-0", "data": {"cmp.x": text, text: "0"}},
        {"schema": f"iglu:com.example/{text}/jsonschema/1-0-0", "data": {"note": text, "list": [text]}},
    ]
    yield {"e": "pv", "co": json.dumps({"schema": f"{iglu}/contexts/jsonschema/1-0-1", "data": entities})}


def gtag_items(text: str) -> Iterator[dict[str, Any]]:
    """Yield a hit of Google's browser tag for each parameter."""
    names = ("dl", "dr", "dt", "ul", "sr", "sid", "cu", "ua", "tid", "gcs", "ep.event_id", "ep.transaction_id", "up.tier", "x")
    yield from ({"query": {}, "event": {"en": "x", name: text}} for name in names)
    yield {"query": {"en": text}, "event": {}}
    yield {"query": {text: text}, "event": {"en": "x", f"ep.{text}": text, f"up.{text}": text}}
    yield {"query": {"en": "x", "pr1": f"nm{quote(text)}~k0{quote(text)}~v0{quote(text)}"}, "event": {}}


def choices_of(text: str) -> Iterator[dict[str, Any]]:
    """Yield a choice for each field."""
    yield {"client_id": "c-1", "consent": {"cmp.marketing": text}}
    yield {"client_id": "c-1", "consent": {"cmp.marketing": "0", text: "1", "note": text}}
    if len(text) <= 64:  # of a longer one the reader takes the beginning
        yield {"client_id": "c-1", "consent": {"cmp.marketing": "0"}, "platform": text}
    yield {"client_id": "c-1", "consent": {"cmp.marketing": "0"}, "site": text}


READERS: tuple[tuple[str, Callable[[Any], Item], Callable[[str], Iterator[dict[str, Any]]]], ...] = (
    ("own", own.parse_item, own_events),
    ("segment", segment.parse_item, segment_events),
    ("ga4", ga4.parse_item, ga4_items),
    ("snowplow", snowplow.parse_item, snowplow_items),
    ("gtag", gtag.parse_item, gtag_items),
)


@lru_cache(maxsize=100_000)
def decoded(text: str) -> str:
    """Decode a text as a reader of the topic could, without the code under test."""
    for _ in range(10):
        before = text
        text = re.sub(r"%u([0-9A-Fa-f]{4})", lambda match: chr(int(match[1], 16)), text)
        text = html.unescape(unquote(text, errors="replace"))
        text = re.sub(r"\\+(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2}))", lambda match: chr(int(match[1] or match[2], 16)), text)
        text = unicodedata.normalize("NFKC", text)
        text = "".join(char for char in text if unicodedata.category(char) != "Cf")
        if text == before:
            break
    fold_text = unicodedata.normalize("NFKD", text).casefold()
    return "".join(char for char in fold_text if unicodedata.category(char) != "Mn")


def leaks(canary: Canary, value: Any) -> list[str]:
    """Return the texts of a record that reveal the canary."""
    texts: list[str] = []
    pending = [value]
    while pending:
        inner = pending.pop()
        if isinstance(inner, dict):
            pending += (*inner, *inner.values())
        elif isinstance(inner, list):
            pending += inner
        elif isinstance(inner, str | int | float):
            texts.append(str(inner))
    return [text for text in texts if _shows(canary, decoded(text))]


def _shows(canary: Canary, text: str) -> bool:
    digits = "".join(str(unicodedata.decimal(char)) for char in text if unicodedata.category(char) == "Nd")
    return any(trace in text for trace in canary.traces) or any(run in digits for run in canary.digits)


class Door:
    """An intake, and the records that it produces."""

    def __init__(self, folder: Path) -> None:
        self.metrics = Metrics()
        self._intake = Intake(REGISTRY, PayloadKeyring(folder, SECRET), NodeKeys.derive(SECRET), self.metrics)
        self._request = RequestContext("web", "shop.example", 1_795_514_401_000, ip="192.0.2.1")

    def events(self, parse: Callable[[Any], Item], items: list[Any]) -> list[Any]:
        """Return [key, record] of events.raw."""
        return self._opened(self._intake.accept_events(items, parse, self._request).records)

    def choices(self, items: list[Any]) -> list[Any]:
        """Return [key, record] of consent.signals."""
        return self._opened(self._intake.accept_choices(items, parse_choice, self._request).records)

    def _opened(self, records: list[Any]) -> list[Any]:
        clear = [record for record in records if record.topic != "events.dead"]  # dead letters are encrypted
        return [[record.key.decode(), decode(REGISTRY, record.value)[1]] for record in clear]


@pytest.fixture
def door(tmp_path: Path) -> Door:
    """An intake of its own for each test."""
    return Door(tmp_path)


def sampled(items: list[Any], share: float, seed: int) -> list[Any]:
    """Return all items in a full run, else a fixed sample."""
    return items if FULL else [item for item in items if random.Random(f"{seed}{item}").random() < share]


@pytest.mark.parametrize("canary", [EMAILS, PHONES, IPS, IPV6S], ids=lambda canary: canary.kind)
@pytest.mark.parametrize(("protocol", "parse", "events_of"), READERS, ids=lambda value: value if isinstance(value, str) else "")
def test_no_spelling_gets_into_an_event(
    door: Door,
    canary: Canary,
    protocol: str,
    parse: Callable[[Any], Item],
    events_of: Callable[[str], Iterator[dict[str, Any]]],
) -> None:
    """No canary is in a record of events.raw, its key, a log line or the label of a metric."""
    event_count = 0
    with capture_logs() as logs:
        for place, text in enumerate(spellings(canary)):
            for item in sampled(list(events_of(text)), 0.15, place):
                records = door.events(parse, [item])
                event_count += len(records)
                assert not leaks(canary, records), (text, item, leaks(canary, records))
    assert event_count > SPELLINGS  # it is no list of refusals
    assert not leaks(canary, [generate_latest(door.metrics.registry).decode(), *map(str, logs)])


@pytest.mark.parametrize("canary", [EMAILS, PHONES, IPS, IPV6S], ids=lambda canary: canary.kind)
def test_no_spelling_gets_into_a_choice(door: Door, canary: Canary) -> None:
    """No canary is in a record of consent.signals, a log line or the label of a metric."""
    with capture_logs() as logs:
        for place, text in enumerate(spellings(canary)):
            for item in sampled(list(choices_of(text)), 0.5, place):
                records = door.choices([item])
                assert not leaks(canary, records), (text, item, leaks(canary, records))
    assert not leaks(canary, [generate_latest(door.metrics.registry).decode(), *map(str, logs)])


NAMES = (
    "user_id", "userId", "USER-ID", "user.id", "user[id]", "uid", "customer_id", "customerNumber", "external_id",
    "anonymous_id", "clientId", "device_id", "network_userid", "email", "E-Mail", "emailAddress", "phone", "mobile", "msisdn",
    "first_name",
    "lastName", "user_data.city", "_ga", "ip", "ip_override", "user_ip", "hashed_email", "userName",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_personal_fields_are_masked_at_any_place(door: Door, name: str) -> None:
    """Personal fields are masked at any depth, with prefixes, in page URLs, encoded, and in JSON texts."""
    secret = "Quokka77 Wombat"
    items: list[dict[str, Any]] = [
        {"x.params." + name: secret}, {"properties": {"a": [{"b": {name: secret}}]}},
        {"properties": {"c": {name: {"value": secret}}}},
        {"page_location": f"https://shop.example/?{quote(name)}={quote(secret)}&x=1"},
        {"page_referrer": f"https://shop.example/?u={quote(f'https://o.example/?{name}={quote(secret)}&z=1', safe='')}"},
        {"payload": json.dumps({"a": {name: secret}})}, {"payload": "cut: " + json.dumps({"a": {name: secret}})[:-4]},
        {"payload": quote(json.dumps({name: secret}))}, {"payload": json.dumps(json.dumps({name: secret}))},
    ]  # fmt: skip
    canary = Canary("field", (), ("quokka", "wombat"))
    for item in items:
        (record,) = door.events(own.parse_item, [{"event_name": "x", **item}])
        assert not leaks(canary, record), (item, leaks(canary, record))


@pytest.mark.parametrize("text", USERS.forms)
@pytest.mark.parametrize(
    "spell", [str, quote, every_byte, str.upper, full_width], ids=["plain", "encoded", "bytes", "upper", "wide"]
)
def test_an_events_own_identifiers_are_masked_everywhere_else(door: Door, text: str, spell: Spell) -> None:
    """They are masked under unknown names, in paths, titles, ids and versions, in every protocol."""
    for field in ("a", "page_title", "page_location", "event_id", "order_id", "tag_version", "user_agent", "event_name"):
        for item, parse in (
            ({"event_name": "x", "user_id": text, field: f"see {spell(text)}."}, own.parse_item),
            (
                {"type": "track", "event": "x", "userId": text, "properties": {"a": [spell(text)], spell(text): 1}},
                segment.parse_item,
            ),
            ({"e": "se", "uid": text, "se_la": f"https://x.example/{spell(text)}/", "ua": spell(text)}, snowplow.parse_item),
            ({"shared": {"client_id": text}, "event": {"name": "x", "params": {"a": spell(text)}}}, ga4.parse_item),
        ):
            (record,) = door.events(parse, [item])
            assert not leaks(USERS, record), (item, leaks(USERS, record))


LIMITED = ("page_title", "page_location", "user_agent", "session_id", "language", "order_id", "note", "event_name", "gclid")
ADDRESS = "quokka.wombat@numbat.example"


@pytest.mark.parametrize("name", LIMITED)
@pytest.mark.parametrize(
    "filler", ["y", " ", "ada.lovelace@numbers.example ", "%20", "{"], ids=["y", "blank", "email", "hex", "brace"]
)
def test_nothing_is_cut_before_it_is_masked(door: Door, name: str, filler: str) -> None:
    """An address at any position of a long text, around each limit and each window of search, leaves no part of itself."""
    canary = Canary("email", (), ("quokka", "wombat", "numbat", "lovelace", "numbers"))
    edges = (64, 128, 4_096, 8_192, 16_384)
    offsets = range(-1, len(ADDRESS) + 2) if FULL else (0, 7, 20)
    for position in (edge - offset for edge in edges for offset in offsets):
        text = (filler * (position // len(filler) + 1))[:position]
        begin = text.rfind(" ") + 1 if filler.endswith(" ") else position  # whole addresses in front of this one
        long = f"{text[:begin]} {ADDRESS} ".ljust(18_000, "z")
        records = door.events(own.parse_item, [{"event_name": "x", name: long, "items": [{"a": long}]}])
        assert len(records) == 1
        assert not leaks(canary, records), (position, leaks(canary, records)[0][-200:])
