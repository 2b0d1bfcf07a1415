"""Whatever a sender puts into an optional field of any protocol arrives, is masked and counted, or is named in `problems`."""

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus, urlencode

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.parsing.money import parse_money
from infra.secrets import Secret
from infra.settings import PACKAGED_CONTRACTS
from schemas.boundary import Boundary
from schemas.codec import decode, encode
from schemas.registry import Registry
from streams.collector.event import Item, ProtocolEvent
from streams.collector.fields.repeated_keys import RepeatedKeys
from streams.collector.fields.tolerant_json import load_body
from streams.collector.masking.field_names import category_of
from streams.collector.masking.text import mask_text
from streams.collector.normalise import Normaliser, RequestContext
from streams.collector.protocols import ga4, gtag, merge, own, pixel, segment, snowplow
from streams.collector.write_keys import KeyKind
from streams.identity.nodes import NodeKeys
from tests.support.scale import examples

REGISTRY = Registry(PACKAGED_CONTRACTS)
RAW = REGISTRY.latest("events.raw")
NORMALISER = Normaliser(RAW, NodeKeys.derive(Secret("for tests only, forty characters long...")))
BOUNDARY: Boundary = Boundary(RAW)
NOW = 1_795_514_401_000
REQUEST = RequestContext("web", "shop.example", NOW, region=None, kind=KeyKind.SERVER)

COMMON = (
    "user_id", "client_id", "device_id", "anonymous_id", "event_id", "page_location", "page_url", "page_title", "page_referrer",
    "user_agent", "ip_override", "tag_version", "gclid", "fbclid", "order_id", "transaction_id", "value", "revenue", "total",
    "currency", "decision_token", "items", "products", "session_id", "ga_session_id", "group_id", "language",
    "screen_resolution", "screen", "timezone", "country", "region", "event_location", "user_data", "user_properties",
    "properties", "consent", "gdpr", "gcs", "event_ts", "sent_ts", "email", "phone", "name", "params",
)  # fmt: skip
SEGMENT = (
    "userId", "anonymousId", "previousId", "groupId", "messageId", "context", "traits", "properties", "integrations",
    "originalTimestamp", "timestamp", "event", "channel", "version", "_metadata", "consent",
)  # fmt: skip
CONTEXT = (
    "ip", "userAgent", "locale", "timezone", "sessionId", "groupId", "page", "library", "device", "screen", "os", "location",
    "network", "campaign", "traits", "active",
)  # fmt: skip
SNOWPLOW = (
    "uid", "duid", "tnuid", "nuid", "eid", "dtm", "ttm", "stm", "url", "refr", "page", "ua", "ip", "tv", "p", "sid", "vid",
    "lang", "res", "tz", "se_ca", "se_ac", "se_la", "se_pr", "se_va", "tr_id", "tr_tt", "tr_cu", "tr_tx", "ti_id", "ti_sk",
    "ti_nm", "ti_ca", "ti_pr", "ti_qu", "ti_cu", "geo_country", "geo_region", "vp", "ds", "ue_pr", "cs",
)  # fmt: skip
GTAG = (
    "cid", "uid", "gcs", "gcd", "npa", "_uip", "ua", "dl", "dr", "dt", "ul", "sr", "sid", "sct", "seg", "cu", "_et", "gtm",
    "tid", "ep.value", "epn.value", "ep.items", "ep.event_id", "ep.transaction_id", "ep.x", "epn.x", "up.tier", "upn.tier",
    "pr1", "pr2", "_p", "_s", "_z",
)  # fmt: skip

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
"""Any Unicode but surrogates."""
NUMBERS = st.one_of(st.integers(), st.integers(-(10**40), 10**40), st.floats(allow_nan=False, allow_infinity=False))
WRITTEN = st.sampled_from(["19,90 €", "$1,234.50", "2026-11-24T12:00:00Z", "1795514401", "1980-01-01", "ada@example.org"])
SCALARS = st.one_of(TEXTS, NUMBERS, NUMBERS.map(str), st.booleans(), st.none(), WRITTEN)


class Repeated(list[tuple[str, Any]]):
    """An object as (name, value) pairs, whose names may repeat."""


def objects(names: st.SearchStrategy[str], values: st.SearchStrategy[Any], size: int) -> st.SearchStrategy[Any]:
    """Objects, and now and then one with a repeated name."""
    return st.lists(st.tuples(names, values), max_size=size).map(Repeated)


def names_of(*names: str) -> st.SearchStrategy[str]:
    """Names that the protocol knows, and any other."""
    return st.one_of(st.sampled_from(names), st.sampled_from(names), TEXTS) if names else TEXTS


EVERY_NAME = names_of(*COMMON, *SEGMENT, *CONTEXT, "id", "url", "title", "referrer", "width", "height", "price", "value")
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), objects(EVERY_NAME, inner, 3)),
    max_leaves=6,
)


def to_json(value: Any) -> str:
    """Return a value as JSON; an object's repeated names stay repeated."""
    if isinstance(value, Repeated):
        return "{" + ",".join(f"{json.dumps(name)}:{to_json(member)}" for name, member in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(to_json, value)) + "]"
    return json.dumps(value)


@dataclass
class Arrival:
    """A record as it was written, and the fields in which something was masked."""

    event: ProtocolEvent
    record: Mapping[str, Any]
    masked: list[str]
    texts: set[str] = field(default_factory=set)
    numbers: set[float] = field(default_factory=set)
    hashed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for value in self.record.values():
            for leaf in leaves(value):
                self._add(leaf)
        self._add(self.event.value)
        for product in self.record["items"]:
            self.texts.update(product)  # a browser tag sends a product's names as values too
        # What the record has as a pseudonym, a digest, a coarser address or the event's time.
        consumed = [self.event.event_id, self.event.ip, *(value for _, value in self.event.identifiers)]
        self.hashed = {text.strip() for text in consumed}

    def _add(self, leaf: Any) -> None:
        self.texts.add(to_text(leaf))
        if (number := to_number(leaf)) is not None:
            self.numbers.add(number)

    def explains(self, names: tuple[str, ...], value: Any) -> bool:
        """Return whether this value, sent under these names, is in the record, or what became of it is."""
        text = to_text(value).strip()
        if not text or value is None:
            return True
        if text in self.texts or any(text == present.strip() for present in self.texts):
            return True
        number = to_number(value)
        if number is not None and number in self.numbers:
            return True
        if isinstance(value, bool) and self.texts & ({"granted", "1"} if value else {"denied", "0"}):
            return True
        return self._is_masked(names, text) or self._is_consumed(text) or self._is_named(names)

    def _is_masked(self, names: tuple[str, ...], text: str) -> bool:
        ends = range(1, len(names) + 1)
        # The properties of a person are judged as traits are.
        paths = [".".join((*outer, *names[start:end])) for end in ends for start in range(end) for outer in ((), ("traits",))]
        personal = any(category_of(path).is_masked for path in paths)
        changes = mask_text(text) != text or any(clear and clear in text for clear in self.hashed)
        return bool(self.masked) and (personal or changes)

    def _is_consumed(self, text: str) -> bool:
        as_identifier = {text, text.removesuffix(".0")}
        whole = to_number(text)
        if whole is not None and whole.is_integer():
            as_identifier.add(str(int(whole)))
        if as_identifier & self.hashed:
            return True
        # Joined texts: a library's name and version, width and height, the amount of `19,90 €`.
        joined = (self.record["tag_version"], self.record["screen"])
        money = parse_money(text)
        return any(text in whole for whole in joined) or (money is not None and money.amount in self.numbers)

    def _is_named(self, names: tuple[str, ...]) -> bool:
        problems = [problem.partition(":")[0] for problem in self.record["problems"]]
        return any(problem == name or problem.endswith(f".{name}") for problem in problems for name in names)


def to_text(value: Any) -> str:
    """Return a scalar as the record writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def to_number(value: Any) -> float | None:
    """Return the number that a scalar is or writes; None where it is none."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def leaves(value: Any) -> Iterator[Any]:
    """Yield every scalar of a value, and those of the JSON in its texts."""
    if isinstance(value, Mapping):
        for member in value.values():
            yield from leaves(member)
    elif isinstance(value, list):
        for member in value:
            yield from leaves(member)
    else:
        yield value
        if isinstance(value, str) and value[:1] in ("{", "["):
            with suppress(orjson.JSONDecodeError):
                yield from leaves(orjson.loads(value))


def sent_leaves(value: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield (names on the way, scalar) of everything that was sent."""
    if isinstance(value, Repeated):
        for name, member in value:
            yield from sent_leaves(member, (*names, name))
    elif isinstance(value, list):
        for member in value:
            yield from sent_leaves(member, names)
    else:
        yield names, value


def arrive(item: Item) -> Arrival:
    """Return the record of an item, as it is read from the topic. Fails where the item is refused."""
    assert isinstance(item, ProtocolEvent), item
    masked: list[str] = []
    _, record = NORMALISER.build_record(item, REQUEST, masked.append)
    return Arrival(item, decode(REGISTRY, encode(RAW, BOUNDARY.check(record)))[1], masked)


TIMES = {"sent_ts", "sentAt", "stm", "event_ts", "timestamp", "originalTimestamp", "dtm", "ttm", "timestamp_micros"}
"""Names of times: one that is read becomes the event's time or its correction."""


def check(item: Item, fields_sent: Any) -> None:
    """Assert that everything that was sent can be accounted for."""
    arrival = arrive(item)
    if any(problem.startswith("and ") for problem in arrival.record["problems"]):
        return  # more problems than an event keeps
    for names, value in sent_leaves(fields_sent):
        if names and names[0] in TIMES and (item_time_is_read(arrival)):
            continue
        assert arrival.explains(names, value), (names, value, arrival.record, arrival.masked)


def item_time_is_read(arrival: Arrival) -> bool:
    """Return whether the event has any time of its own."""
    return arrival.event.created_ms is not None or arrival.event.sent_ms is not None


def body(value: Any) -> Any:
    """Return a body as the doors parse it."""
    return load_body(to_json(value).encode()).payload


def fields_of(*names: str, without: tuple[str, ...] = (), size: int = 7) -> st.SearchStrategy[Any]:
    """Objects of any values under a protocol's names and any others; `without`: names that the test sends itself."""
    return objects(names_of(*names).filter(lambda name: name not in without), VALUES, size)


PROPERTY = settings(
    max_examples=examples(1_000), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@PROPERTY
@given(fields_of(*COMMON, without=("event_name",)))
def test_own_json(fields: Repeated) -> None:
    """Own JSON: every value of every field."""
    (item,) = own.extract_items(body(Repeated([("event_name", "x"), *fields])))
    check(own.parse_item(item), fields)


@PROPERTY
@given(
    st.sampled_from(segment.CALLS),
    fields_of(*SEGMENT, without=("event", "writeKey", "type", "context")),
    fields_of(*CONTEXT),
    st.booleans(),
)
def test_segment(call: str, fields: Repeated, context: Repeated, in_batch: bool) -> None:
    """Segment: each of the six calls, alone and in a batch, whose own context is merged into each."""
    fields_sent = Repeated([("event", "x"), *fields])
    if in_batch:
        batch = [Repeated([*fields_sent, ("type", call)])]
        items = segment.extract_items(body(Repeated([("context", context), ("batch", batch)])), call="batch")
    else:
        items = segment.extract_items(body(Repeated([*fields_sent, ("context", context)])), call=call)
    check(segment.parse_item(items[0]), Repeated([*fields_sent, ("context", context)]))


IGLU = "iglu:com.snowplowanalytics.snowplow"
ENTITY = st.sampled_from(["product", "web_page", "client_session", "geolocation_context"])


def described(schema: str, data: Any) -> Repeated:
    """Return self-describing data."""
    return Repeated([("schema", schema), ("data", data)])


@PROPERTY
@given(
    st.sampled_from(snowplow.KINDS),
    fields_of(*SNOWPLOW, without=("e", "aid", "co", "cx", "ue_px", "ue_pr")),
    fields_of(*COMMON, size=5),
    st.lists(st.tuples(ENTITY, fields_of(*COMMON, "id", "name", "price", "sessionId", size=4)), max_size=3),
)
def test_snowplow(kind: str, fields: Repeated, data: Repeated, entities: list[tuple[str, Repeated]]) -> None:
    """Snowplow: every kind of event, with entities, and the data of unstructured events."""
    inner = [described(f"{IGLU}/{name}/jsonschema/1-0-0", entity) for name, entity in entities]
    payload = Repeated([*fields, ("e", kind), ("co", to_json(described(f"{IGLU}/contexts/jsonschema/1-0-1", inner)))])
    fields_sent: list[Any] = [fields, [entity for _, entity in entities]]
    if kind == "ue":
        event = described("iglu:com.example/x/jsonschema/1-0-0", data)
        payload.append(("ue_pr", to_json(described(f"{IGLU}/unstruct_event/jsonschema/1-0-0", event))))
        fields_sent.append(data)
    (item,) = snowplow.extract_items(body(described(f"{snowplow.PAYLOAD}jsonschema/1-0-4", [payload])))
    check(snowplow.parse_item(item), fields_sent)


@PROPERTY
@given(
    fields_of(*COMMON, "device", "timestamp_micros", "app_instance_id", without=("events",), size=5),
    fields_of(*COMMON, "timestamp_micros", without=("name", "params"), size=4),
    fields_of(*COMMON),
)
def test_measurement_protocol(shared: Repeated, fields: Repeated, params: Repeated) -> None:
    """GA4's Measurement Protocol: fields of the body, of the event, and its parameters."""
    event = Repeated([*fields, ("name", "x"), ("params", params)])
    (item,) = ga4.extract_items(body(Repeated([*shared, ("events", [event])])))
    check(ga4.parse_item(item), [shared, event])


PRODUCTS = st.sampled_from(["idX~nmShoe~pr19.9~k0colour~v0red", "k0a~k1b~v1c~~zz9", "hw_key", "G-1"])
QUERY_TEXTS = st.one_of(TEXTS, NUMBERS.map(str), PRODUCTS)


def query_of(*names: str, without: tuple[str, ...], size: int = 8) -> st.SearchStrategy[Any]:
    """Parameters of a query: texts under a protocol's names and any others."""
    return objects(names_of(*names).filter(lambda name: name not in without), QUERY_TEXTS, size)


def parse_query(query: Repeated) -> RepeatedKeys:
    """Return a query as the doors read it: of a repeated name the first value counts."""
    fields: dict[str, Any] = {}
    later = []
    for name, value in query:
        if name in fields:
            later.append((name, value))
        fields.setdefault(name, value)
    return RepeatedKeys(fields.items(), later)


def gtag_values(parameters: Repeated) -> list[Any]:
    """Return what the parameters say: a product's parts one by one, and no write key."""
    fields_sent: list[Any] = []
    for name, value in parameters:
        if name[:2] == "pr" and name[2:].isdigit():
            fields_sent += [unquote_plus(part[2:]) for part in value.split("~")]
        elif not (name in gtag.KEYS and value.startswith("hw_")):
            field_name = gtag.SHARED.get(name) or gtag.PARAMS.get(name) or name.removeprefix("epn.").removeprefix("ep.")
            fields_sent.append(Repeated([(field_name, value)]))
    return fields_sent


@PROPERTY
@given(query_of(*GTAG, without=("en",)), query_of(*GTAG, without=("en",)))
def test_browser_tag(query: Repeated, line: Repeated) -> None:
    """Google's browser tag: parameters of the query and of a line of the body."""
    request = gtag.read_request(parse_query(query), urlencode([("en", "x"), *line]).encode())
    (item,) = gtag.extract_items(request)
    check(gtag.parse_item(item), [*gtag_values(query), *gtag_values(line)])


def nested(names: list[str], value: str) -> Any:
    """Return a value within objects of these names."""
    return Repeated([(names[0], nested(names[1:], value))]) if names else value


PARTS = st.lists(st.sampled_from([*SEGMENT, *CONTEXT, "url", "title"]), min_size=1, max_size=3)
NOT_SENT = ("event", "data", "type", "writeKey")


@PROPERTY
@given(
    st.sampled_from(segment.CALLS),
    objects(st.one_of(TEXTS, PARTS.map(".".join)).filter(lambda name: name not in NOT_SENT), QUERY_TEXTS, 8),
)
def test_pixel(call: str, query: Repeated) -> None:
    """RudderStack's pixel: dotted names, repeated ones, and names of which one is the beginning of another."""
    (item,) = pixel.extract_items(parse_query(Repeated([*query, ("event", "x")])), call)
    check(segment.parse_item(item), [nested(name.split("."), value) for name, value in query])


@PROPERTY
@given(st.sampled_from(segment.CALLS), fields_of(*SEGMENT, without=NOT_SENT), query_of("userId", without=NOT_SENT, size=3))
def test_pixel_of_base64(call: str, fields: Repeated, further: Repeated) -> None:
    """Segment's pixel: the call as base64 of JSON, and further fields beside it."""
    data = base64.b64encode(to_json(Repeated([("event", "x"), *fields])).encode()).decode()
    (item,) = pixel.extract_items(parse_query(Repeated([*further, ("data", data)])), call)
    check(segment.parse_item(item), [fields, [nested(name.split("."), value) for name, value in further]])


KINDS_OF_ID = st.sampled_from([*merge.TRAITS, *merge.IDENTIFIERS, "device_id", "deviceId", "User-Id"])


@PROPERTY
@given(
    st.lists(st.tuples(KINDS_OF_ID, VALUES, fields_of(without=("type", "value"), size=2)), max_size=5),
    fields_of(*SEGMENT, without=("mergeProperties", "type", "writeKey"), size=5),
)
def test_merge(entries: list[tuple[str, Any, Repeated]], fields: Repeated) -> None:
    """RudderStack's merge: every identifier that it names, of each type as many as it has, and what is beside them."""
    properties = [Repeated([("type", kind), ("value", value), *further]) for kind, value, further in entries]
    item = merge.parse_item(body(Repeated([*fields, ("mergeProperties", properties)])))
    check(item, [[Repeated([(kind, value), *further]) for kind, value, further in entries], fields])


LONG = "y" * 4_097
LIMITS: list[tuple[Callable[[Any], Item], Any, str]] = [
    (own.parse_item, {"event_name": "x", **{f"p{number}": number for number in range(201)}}, "properties"),
    (own.parse_item, {"event_name": "x", "note": LONG}, "note"),
    (own.parse_item, {"event_name": "x", "items": [{"id": number} for number in range(201)]}, "items"),
    (own.parse_item, {"event_name": "x", "items": [{"note": LONG}]}, "items.note"),
    (own.parse_item, {"event_name": "x", "user_properties": {"note": LONG}}, "user_properties.note"),
    *(
        (own.parse_item, {"event_name": "x", name: LONG}, column)
        for name, column in {
            "page_location": "page_url", "page_title": "page_title", "page_referrer": "page_referrer", "order_id": "order_id",
            "user_agent": "user_agent", "tag_version": "tag_version", "decision_token": "decision_token", "gclid": "gclid",
            "session_id": "session_id", "group_id": "group_id", "language": "language", "screen": "screen",
            "timezone": "timezone", "currency": "currency", "event_id": "event_id", "consent": "signals",
        }.items()
        if name != "consent"
    ),
    (own.parse_item, {"event_name": "x", "consent": {"cmp." + "a" * 200: "denied"}}, "signals"),
    (own.parse_item, {"event_name": LONG}, "event_name"),
]  # fmt: skip


@pytest.mark.parametrize(("parse", "event", "name"), LIMITS, ids=[name for _, _, name in LIMITS])
def test_what_a_limit_cuts_is_named(parse: Callable[[Any], Item], event: Any, name: str) -> None:
    """200 properties, 200 items, 4,096 characters, and the lengths of columns: problems name what was cut."""
    problems = arrive(parse(event)).record["problems"]
    assert name in [problem.partition(":")[0] for problem in problems]
