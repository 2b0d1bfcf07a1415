"""Consent signals of every protocol: none is lost, whatever its type and place."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.secrets import Secret
from infra.settings import PACKAGED_CONTRACTS
from schemas.boundary import Boundary
from schemas.codec import encode
from schemas.registry import Registry
from streams.collector.event import Item, ProtocolEvent
from streams.collector.fields.repeated_keys import RepeatedKeys, loads
from streams.collector.normalise import Normaliser, RequestContext
from streams.collector.protocols import choices, ga4, own, segment, snowplow
from streams.collector.signals.signals import MAX_JSON, MAX_SIGNALS, TOO_MANY, SignalBuilder
from streams.identity.nodes import NodeKeys

RAW = Registry(PACKAGED_CONTRACTS).latest("events.raw")
NORMALISER = Normaliser(RAW, NodeKeys.derive(Secret("for tests only, forty characters long...")))
BOUNDARY = Boundary(RAW)
UNSTRUCT = "iglu:com.snowplowanalytics.snowplow/unstruct_event/jsonschema/1-0-0"
CONTEXTS = "iglu:com.snowplowanalytics.snowplow/contexts/jsonschema/1-0-1"
HEADWATER = "iglu:com.headwater/consent/jsonschema/1-0-0"
SNOWPLOW = "iglu:com.snowplowanalytics.snowplow/{}/jsonschema/1-0-0"

Signals = dict[str, str]


def recorded(item: Item, gpc: str = "") -> Signals:
    """Return the signals of an item's record, which must fit its contract."""
    assert isinstance(item, ProtocolEvent), item
    record = NORMALISER.build_record(
        item, RequestContext("web", "shop.example", 1_795_514_401_000, gpc=gpc), lambda _name: None
    )[1]
    encode(RAW, BOUNDARY.check(record))
    signals: Signals = record["signals"]
    return signals


def of_own(body: str) -> Signals:
    """Return the signals of a body of /v1/events."""
    return recorded(own.parse_item(own.extract_items(loads(body.encode()))[0]))


def of_segment(body: str, call: str = "batch") -> Signals:
    """Return the signals of the first call of a Segment body."""
    return recorded(segment.parse_item(segment.extract_items(loads(body.encode()), call)[0]))


def of_ga4(body: str) -> Signals:
    """Return the signals of the first event of a Measurement Protocol body."""
    return recorded(ga4.parse_item(ga4.extract_items(loads(body.encode()))[0]))


def of_snowplow(item: dict[str, Any] | str) -> Signals:
    """Return the signals of a tp2 event."""
    return recorded(snowplow.parse_item(loads((item if isinstance(item, str) else json.dumps(item)).encode())))


def filled(template: str, *parts: str) -> str:
    """Replace each `%s` of a template; `format` would conflict with JSON's braces."""
    for part in parts:
        template = template.replace("%s", part, 1)
    return template


def own_consent(consent: str) -> str:
    """Return a body of /v1/events with this consent, which may be any JSON."""
    return filled('{"event_name":"x","client_id":"c","consent":%s}', consent)


CONSENTS: list[tuple[str, Signals]] = [
    ("{}", {}),
    ('"denied"', {"consent": "denied"}),
    ("[]", {"consent": "[]"}),
    ("null", {"consent": "null"}),
    ("7", {"consent": "7"}),
    ("true", {"consent": "true"}),
    ("false", {"consent": "false"}),
    ('{"marketing":false,"analytics":true}', {"marketing": "denied", "analytics": "granted"}),
    ('{"cmp.marketing":null}', {"cmp.marketing": "null"}),
    ('{"cmp.marketing":1,"cmp.ads":0.0,"cmp.x":0.5}', {"cmp.marketing": "1", "cmp.ads": "0", "cmp.x": "0.5"}),
    ('{"cmp.marketing":["denied"]}', {"cmp.marketing": '["denied"]'}),
    ('{"cmp.marketing":[]}', {"cmp.marketing": "[]"}),
    ('{"cmp.marketing":{}}', {"cmp.marketing": "{}"}),
    ('{"cmp.marketing":{"ok":true}}', {"cmp.marketing": '{"ok":true}', "cmp.marketing.ok": "granted"}),
    ('{"cmp":{"marketing":"denied","analytics":true}}', {"cmp.marketing": "denied", "cmp.analytics": "granted"}),
    ('{"cmp":{}}', {"cmp": "{}"}),
    ('{"a":{"b":{"c":{"d":"no"}}}}', {"a.b.c.d": "no"}),
    ('{"a":{"b":{"c":{"d":{"e":"no"}}}}}', {"a.b.c.d": '{"e":"no"}'}),
    ('{"  cmp.Marketing ":" Denied "}', {"cmp.Marketing": " Denied "}),
    ('{"ad_storage":"denied","AD_USER_DATA":"denied"}', {"cm.ad_storage": "denied", "cm.AD_USER_DATA": "denied"}),
    ('{"cm.AD_STORAGE":"DENIED"}', {"cm.AD_STORAGE": "DENIED"}),
    ('{"gdpr_applies":true,"gdprApplies":false,"GPC":true}', {"gdpr_applies": "1", "gdprApplies": "0", "GPC": "1"}),
    ('{"do_not_sell":true,"opt_out":true,"npa":true}', {"do_not_sell": "1", "opt_out": "1", "npa": "1"}),
    (
        '{"all_rejected":true,"Do Not Track":true,"x":{"optedOut":true},"globalPrivacyControl":true}',
        {"all_rejected": "1", "Do Not Track": "1", "x.optedOut": "1", "globalPrivacyControl": "1"},
    ),
    ('{"us_privacy":"1YYY"}', {"us_privacy": "1YYY"}),
    ('{"enabled":["ads"],"disabled":["stats","x y"]}', {"cmp.ads": "granted", "cmp.stats": "denied", "cmp.x y": "denied"}),
    ('{"purposes":{"enabled":["a"],"disabled":["b"]}}', {"cmp.a": "granted", "cmp.b": "denied"}),
    ('{"accepted_categories":["a"],"rejectedServices":["b"]}', {"cmp.a": "granted", "cmp.b": "denied"}),
    ('{"categoriesAccepted":["a"],"vendor_ids_refused":[7]}', {"cmp.a": "granted", "cmp.7": "denied"}),
    ('{"disallowed":["a"],"not_allowed":["b"]}', {"cmp.a": "denied", "not_allowed": '["b"]'}),
    ('{"allowed":[],"denied":[]}', {"allowed": "[]"}),
    ('{"allowed":["a",{"b":1}]}', {"allowed": '["a",{"b":1}]'}),
    ('{"denied":["a",null]}', {"cmp.a": "denied", "denied": '["a",null]'}),
    ('{"categoryPreferences":{"marketing":false,"ad_storage":false}}', {"cmp.marketing": "denied", "cm.ad_storage": "denied"}),
    ('{"cmp.marketing":"0","cmp.marketing":"1"}', {"cmp.marketing": "0", "cmp.marketing#2": "1"}),
    ('{"cmp":{"m":"0"},"cmp":{"m":"1"},"cmp.m":"2"}', {"cmp.m": "0", "cmp.m#2": "1", "cmp.m#3": "2"}),
    ('{"cmp.m":"0","cmp.m":"0"}', {"cmp.m": "0"}),
    ('{"cmp.m" :"0","cmp.\\u006d":"1"}', {"cmp.m": "0", "cmp.m#2": "1"}),
    ('{"cmp":{"m":"0"},"cmp.m":{"x":1}}', {"cmp.m": "0", "cmp.m#2": '{"x":1}', "cmp.m.x": "1"}),
    ('{"":"denied"}', {"": "denied"}),
]


@pytest.mark.parametrize(("consent", "signals"), CONSENTS)
def test_a_consent_object_of_any_make(consent: str, signals: Signals) -> None:
    """Unknown names, nesting, null, lists, numbers and repeated keys all become signals of the record."""
    assert of_own(own_consent(consent)) == signals


@pytest.mark.parametrize(("consent", "signals"), CONSENTS)
def test_every_door_builds_the_same_signals(consent: str, signals: Signals) -> None:
    """The same consent object gives the same signals in all protocols and in choices."""
    assert of_segment(filled('{"batch":[{"type":"track","event":"A","context":{"consent":%s}}]}', consent)) == signals
    assert of_segment(filled('{"event":"A","context":{"consent":%s}}', consent), "track") == signals
    assert of_ga4(filled('{"client_id":"1.2","consent":%s,"events":[{"name":"x"}]}', consent)) == signals
    entity = filled('{"schema":"%s","data":[{"schema":"%s","data":%s}]}', CONTEXTS, HEADWATER, consent)
    assert of_snowplow({"e": "pv", "co": entity}) == signals
    assert of_snowplow({"e": "pv", "cx": base64.urlsafe_b64encode(entity.encode()).decode().rstrip("=")}) == signals
    choice = choices.parse_item(loads(filled('{"client_id":"c","kind":"withdrawal","consent":%s}', consent).encode()))
    assert isinstance(choice, choices.SentChoice)
    assert choice.signals == signals


@pytest.mark.parametrize(
    ("fields", "signals"),
    [
        ('"gpc":true', {"gpc": "1"}),
        ('"Sec-GPC":"1"', {"gpc": "1"}),
        ('"gpp":"DBABLA~BVVqAAAAAgA.QA"', {"gpp": "DBABLA~BVVqAAAAAgA.QA"}),
        ('"us_privacy":"1YYN","usp_string":"1YNN"', {"us_privacy": "1YYN", "us_privacy#2": "1YNN"}),
        ('"gdpr_consent":"CP","gdprApplies":1', {"tc_string": "CP", "gdprApplies": "1"}),
        ('"x-ga-gcs":"G100"', {"gcs": "G100"}),
        ('"X-GA-GCD":"13q3q3q3q5"', {"gcd": "13q3q3q3q5"}),
        ('"x-ga-gcs":null', {"gcs": "null"}),
        ('"x-ga-gcs":"G100","gcs":"G111"', {"gcs": "G111", "x-ga-gcs": "G100"}),
        ('"x-ga-gcs":["G100"]', {"gcs": '["G100"]'}),
        ('"x-ga-npa":"1"', {"npa": "1"}),
        ('"non_personalized_ads":true', {"non_personalized_ads": "1"}),
        ('"npa":1', {"npa": "1"}),
        ('"ad_storage":"denied"', {"cm.ad_storage": "denied"}),
        ('"ad_storage":{"x":1}', {"cm.ad_storage": '{"x":1}', "cm.ad_storage.x": "1"}),
        ('"cmp":{"ads":false}', {"cmp.ads": "denied"}),
        ('"cmp.ads":false', {"cmp.ads": "denied"}),
        ('"cmp":["none"]', {"cmp": '["none"]'}),
        ('"consentMode":{"analytics_storage":"denied"}', {"cm.analytics_storage": "denied"}),
        ('"consent":{"cmp.ads":"0"},"consent":{"cmp.ads":"1"}', {"cmp.ads": "0", "cmp.ads#2": "1"}),
        ('"consentManagement":{"deniedConsentIds":["ads"]}', {"cmp.ads": "denied"}),
        ('"categoryPreferences":{"ads":false}', {"cmp.ads": "denied"}),
        ('"gcs":"G100","gcs":"G111"', {"gcs": "G100", "gcs#2": "G111"}),
        ('"dma":"1","x-ga-dma":"1","gdpr":"0","consented":"no","cmp":"summer","cm":180', {}),
    ],
)
def test_signals_beside_the_consent_object(fields: str, signals: Signals) -> None:
    """Names that are signals in any object are read at the top and in the properties, in each protocol."""
    assert of_own(filled('{"event_name":"x",%s}', fields)) == signals
    assert of_own(filled('{"event_name":"x","properties":{%s}}', fields)) == signals
    assert of_segment(filled('{"event":"A",%s}', fields), "track") == signals
    assert of_segment(filled('{"event":"A","properties":{%s}}', fields), "track") == signals
    assert of_segment(filled('{"event":"A","context":{%s}}', fields), "track") == signals
    assert of_segment(filled('{%s,"batch":[{"type":"page"}]}', fields)) == signals
    assert of_ga4(filled('{"client_id":"1.2",%s,"events":[{"name":"x"}]}', fields)) == signals
    assert of_ga4(filled('{"client_id":"1.2","events":[{"name":"x",%s}]}', fields)) == signals
    assert of_ga4(filled('{"client_id":"1.2","events":[{"name":"x","params":{%s}}]}', fields)) == signals
    event = filled('{"schema":"%s","data":{"schema":"iglu:a/b/jsonschema/1-0-0","data":{%s}}}', UNSTRUCT, fields)
    assert of_snowplow({"e": "ue", "ue_pr": event}) == signals


def test_three_places_of_one_event_all_count() -> None:
    """Three values of gcd, at the top, in the properties and in the consent object, are three signals."""
    body = {"event_name": "x", "x-ga-gcd": "a", "properties": {"x-ga-gcd": "b"}, "consent": {"gcd": "c", "x-ga-gcd": "d"}}
    assert sorted(of_own(json.dumps(body)).values()) == ["a", "b", "c", "d"]


def test_signals_are_no_properties() -> None:
    """A signal is not kept as a property too, where another purpose would govern it."""
    event = own.parse_item({"event_name": "x", "gpc": True, "plan": "b", "properties": {"cmp.ads": "0", "size": 2}})
    assert isinstance(event, ProtocolEvent)
    assert event.properties == {"plan": "b", "size": 2}


@pytest.mark.parametrize(
    ("shared", "context", "signals"),
    [
        (
            '{"consent":{"categoryPreferences":{"m":false}}}',
            '{"consent":{"categoryPreferences":{"a":true}}}',
            {"cmp.m": "denied", "cmp.a": "granted"},
        ),
        (
            '{"consent":{"categoryPreferences":{"m":false}}}',
            '{"consent":{"categoryPreferences":{"m":true}}}',
            {"cmp.m": "denied", "cmp.m#2": "granted"},
        ),
        ('{"consent":{"gpc":true}}', "{}", {"gpc": "1"}),
        ('{"consent":{"gpc":true}}', "null", {"gpc": "1"}),
        ('{"consent":{"gpc":true}}', '{"consent":null}', {"gpc": "1", "consent": "null"}),
        ('{"consentManagement":{"denied":["m"]}}', '{"consentManagement":{"denied":[]}}', {"cmp.m": "denied"}),
        ('{"consent":{"cmp.m":"0"},"consent":{"cmp.m":"1"}}', "{}", {"cmp.m": "0", "cmp.m#2": "1"}),
        ('{"gpc":"1"}', '{"gpc":"0"}', {"gpc": "1", "gpc#2": "0"}),
    ],
)
def test_a_batchs_context_and_an_items(shared: str, context: str, signals: Signals) -> None:
    """An item's own consent object does not replace the batch's refusal."""
    assert of_segment(filled('{"context":%s,"batch":[{"type":"track","event":"A","context":%s}]}', shared, context)) == signals


def test_consent_beside_the_events_applies_to_each() -> None:
    """Consent beside `events` applies to every event, and an event's own signals do not replace it."""
    body = '{"gpc":"1","consent":{"cmp.m":"0"},"events":[{"event_name":"a"},{"event_name":"b","consent":{"cmp.m":"1"}},7]}'
    first, second, third = own.extract_items(loads(body.encode()))
    assert recorded(own.parse_item(first)) == {"gpc": "1", "cmp.m": "0"}
    assert recorded(own.parse_item(second)) == {"gpc": "1", "cmp.m": "0", "cmp.m#2": "1"}
    assert third == 7


def test_traits_count() -> None:
    """Consent fields of traits are signals."""
    for body in ('{"traits":{"consent":{"cmp.m":"0"}}}', '{"context":{"traits":{"gpc":"1"}}}'):
        assert of_segment(body, "identify")


def test_a_repeated_context() -> None:
    """A refusal in the first of two contexts counts, although its other fields do not."""
    denied, granted = (filled('{"consent":{"cmp.m":"%s"}}', value) for value in "01")
    both = {"cmp.m": "0", "cmp.m#2": "1"}
    assert of_segment(filled('{"event":"A","context":%s,"context":%s}', denied, granted), "track") == both
    assert of_segment(filled('{"context":%s,"context":%s,"batch":[{"type":"page"}]}', denied, granted)) == both


@pytest.mark.parametrize(
    ("management", "signals"),
    [
        (
            '{"provider":"oneTrust","allowedConsentIds":["C1"],"deniedConsentIds":["C2"],"resolutionStrategy":"and"}',
            {"platform": "oneTrust", "cmp.C1": "granted", "cmp.C2": "denied"},
        ),
        (
            '{"allowedConsentIds":{"purposes":["a"]},"deniedConsentIds":null}',
            {"allowedConsentIds.purposes": '["a"]', "deniedConsentIds": "null"},
        ),
        ('"none"', {"consent": "none"}),
        ('{"initialized":false}', {"initialized": "denied"}),
    ],
)
def test_rudderstacks_consent_object(management: str, signals: Signals) -> None:
    """Allowed and denied ids are signals; the platform's description of itself is none."""
    assert of_segment(filled('{"event":"A","context":{"consentManagement":%s}}', management), "track") == signals


@pytest.mark.parametrize(
    ("flags", "signals"),
    [
        ('{"marketing":false,"categoryPreferences":{"marketing":true}}', {"marketing": "denied", "cmp.marketing": "granted"}),
        ('{"categoryPreferences":null}', {"categoryPreferences": "null"}),
        ('{"categoryPreferences":"none"}', {"categoryPreferences": "none"}),
        ('{"categoryPreferences":{}}', {}),
        ('{"categoryPreferences":{"m":{"x":1}}}', {"cmp.m": '{"x":1}', "cmp.m.x": "1"}),
        ('{"categoryPreferences":{"m":true},"categoryPreferences":{"m":false}}', {"cmp.m": "granted", "cmp.m#2": "denied"}),
    ],
)  # fmt: skip
def test_segments_flags_and_categories(flags: str, signals: Signals) -> None:
    """Flags beside the categories are kept under their own names."""
    assert of_segment(filled('{"event":"A","context":{"consent":%s}}', flags), "track") == signals


def test_ga4s_consent_and_params_both_count() -> None:
    """A grant of the body does not replace a refusal of the event."""
    body = {
        "client_id": "1.2",
        "consent": {"ad_user_data": "GRANTED"},
        "non_personalized_ads": True,
        "events": [
            {"name": "x", "consent": {"ad_user_data": "DENIED"}, "params": {"ad_personalization": "denied", "gcs": "G100"}}
        ],
    }
    assert of_ga4(json.dumps(body)) == {
        "cm.ad_user_data": "GRANTED", "cm.ad_user_data#2": "DENIED", "non_personalized_ads": "1",
        "cm.ad_personalization": "denied", "gcs": "G100",
    }  # fmt: skip


def contexts(*entities: tuple[str, Any]) -> str:
    """Return entities as in `co`."""
    return json.dumps({"schema": CONTEXTS, "data": [{"schema": schema, "data": data} for schema, data in entities]})


def encoded(text: str) -> str:
    """Return JSON as in `cx`."""
    return base64.b64encode(text.encode()).decode()


def test_several_entities_and_both_fields_count() -> None:
    """`co` and `cx`, two entities of one schema, and a repeated field all count."""
    denied, granted = (contexts((HEADWATER, {"cmp.m": value})) for value in "01")
    twice = {"cmp.m": "0", "cmp.m#2": "1"}
    assert of_snowplow({"e": "pv", "co": granted, "cx": encoded(denied)}) == twice
    assert of_snowplow({"e": "pv", "co": contexts((HEADWATER, {"cmp.m": "0"}), (HEADWATER, {"cmp.m": "1"}))}) == twice
    assert of_snowplow(filled('{"e":"pv","co":%s,"co":%s}', json.dumps(denied), json.dumps(granted))) == twice
    inside = filled('{"schema":"%s","data":[{"schema":"%s","data":{"cmp.m":"0","cmp.m":"1"}}]}', CONTEXTS, HEADWATER)
    assert of_snowplow({"e": "pv", "cx": encoded(inside)}) == twice
    assert of_snowplow({"e": "pv", "co": contexts(("iglu:acme/consent/jsonschema/1-0-0", {"cmp.m": "0"}))}) == {"cmp.m": "0"}
    assert of_snowplow({"e": "pv", "co": contexts(("iglu:acme/page/jsonschema/1-0-0", {"gpc": "1", "size": 2}))}) == {
        "gpc": "1"
    }


@pytest.mark.parametrize(
    ("kind", "scopes", "signals"),
    [
        ("deny_all", [], {"cmp.all": "denied"}),
        ("deny_all", ["ads"], {"cmp.all": "denied", "cmp.ads": "denied"}),
        ("Deny_All", None, {"cmp.all": "denied"}),
        ("withdrawn", [], {"cmp.all": "denied"}),
        ("expired", [], {"cmp.all": "denied"}),
        ("deny_selected", ["ads", "stats"], {"cmp.ads": "denied", "cmp.stats": "denied"}),
        ("deny_selected", [], {"cmp.all": "denied"}),
        ("deny_selected", ["ads", None], {"cmp.all": "denied", "cmp.ads": "denied"}),
        ("deny_selected", "ads", {"cmp.all": "denied"}),
        ("allow_all", ["ads"], {"cmp.ads": "granted"}),
        ("allow_all", [], {}),
        ("allow_selected", ["ads"], {"cmp.ads": "granted", "cmp.not_selected": "denied"}),
        ("allow_selected", [], {"cmp.not_selected": "denied"}),
        ("pending", ["ads"], {}),
        ("implicit_consent", ["ads"], {}),
        ("refuse_everything", [], {"cmp.all": "denied"}),
        (None, ["ads"], {"cmp.all": "denied", "cmp.ads": "denied"}),
        (7, [], {"cmp.all": "denied"}),
    ],
)
def test_snowplows_consent_preferences(kind: Any, scopes: Any, signals: Signals) -> None:
    """Each event type grants or denies its scopes, as an event and as an entity; an unknown type denies everything."""
    data = {"eventType": kind, "basisForProcessing": "consent", "consentScopes": scopes, "gdprApplies": None}
    schema = SNOWPLOW.format("consent_preferences")
    preferences = {"schema": schema, "data": data}
    expected = signals | ({"platform_event": kind.lower()} if isinstance(kind, str) else {})
    assert of_snowplow({"e": "ue", "ue_pr": json.dumps({"schema": UNSTRUCT, "data": preferences})}) == expected
    assert of_snowplow({"e": "pv", "co": contexts((schema, data))}) == expected


def test_snowplows_preferences_that_contradict() -> None:
    """Two event types in one object, and both events of an item, count."""
    name = SNOWPLOW.format("consent_preferences")
    data = '{"eventType":"deny_all","eventType":"allow_all","consentScopes":["ads"],"gdprApplies":true}'
    expected = {"cmp.all": "denied", "cmp.ads": "denied", "cmp.ads#2": "granted", "gdpr_applies": "1"}
    signals = of_snowplow({"e": "pv", "co": filled('{"schema":"%s","data":[{"schema":"%s","data":%s}]}', CONTEXTS, name, data)})
    assert {name: value for name, value in signals.items() if not name.startswith("platform")} == expected
    event = '{"schema":"%s","data":{"schema":"%s","data":{"eventType":"%s"}}}'
    both = of_snowplow(
        {
            "e": "ue",
            "ue_pr": filled(event, UNSTRUCT, name, "allow_all"),
            "ue_px": encoded(filled(event, UNSTRUCT, name, "deny_all")),
        }
    )
    assert both["cmp.all"] == "denied"
    assert of_snowplow({"e": "pv", "co": contexts((name, "deny"))}) == {"cmp.all": "denied"}


@pytest.mark.parametrize(
    ("name", "data", "documents", "signals"),
    [
        ("consent_withdrawn", {"all": True}, [], {"cmp.all": "denied"}),
        ("consent_withdrawn", {}, [], {"cmp.all": "denied"}),
        ("consent_withdrawn", {"all": None}, [{"id": "7"}], {"cmp.all": "denied", "cmp.7": "denied"}),
        ("consent_withdrawn", {"all": False}, [{"id": "7", "name": "ads"}], {"cmp.7": "denied", "cmp.ads": "denied"}),
        ("consent_withdrawn", {"all": False}, [{"version": "1"}], {"cmp.all": "denied"}),
        ("consent_withdrawn", {"all": False}, [], {"cmp.all": "denied"}),
        ("consent_withdrawn", None, [], {"cmp.all": "denied"}),
        (
            "consent_granted",
            {"expiry": "2027-01-01T00:00:00Z"},
            [{"id": "7", "name": "ads"}],
            {"cmp.7": "granted", "cmp.ads": "granted"},
        ),
        ("consent_granted", {}, [], {}),
        ("gdpr", {"basisForProcessing": "consent"}, [], {}),
    ],
)
def test_snowplows_documents(name: str, data: Any, documents: list[Any], signals: Signals) -> None:
    """Withdrawn and granted consent names its documents in entities; a withdrawal without documents is of everything."""
    entities = contexts(*((SNOWPLOW.format("consent_document"), document) for document in documents))
    event = json.dumps({"schema": UNSTRUCT, "data": {"schema": SNOWPLOW.format(name), "data": data}})
    assert of_snowplow({"e": "ue", "ue_pr": event, "co": entities}) == signals


def test_query_strings_with_a_name_twice() -> None:
    """Both values of `co` in a query string are read."""
    denied, granted = (contexts((HEADWATER, {"cmp.m": value})) for value in "01")
    fields = [("e", "pv"), ("co", denied), ("co", granted)]
    item = RepeatedKeys(fields[:2], fields[2:])
    assert sorted(recorded(snowplow.parse_item(item)).values()) == ["0", "1"]


@pytest.mark.parametrize(
    ("header", "body_signals", "signals"),
    [
        ("", {"gpc": "0"}, {"gpc": "0"}), ("1", {}, {"gpc": "1"}), ("true", {}, {"gpc": "true"}), ("yes", {}, {"gpc": "yes"}),
        ("1", {"gpc": "1"}, {"gpc": "1"}), ("1", {"gpc": "0"}, {"gpc": "1", "gpc#2": "0"}),
    ],
)  # fmt: skip
def test_the_header_beside_the_body(header: str, body_signals: Signals, signals: Signals) -> None:
    """Sec-GPC is passed on as sent, and another value in the body does not replace it."""
    assert recorded(ProtocolEvent("x", "headwater", signals=body_signals), header) == signals


def test_names_and_values_are_bounded() -> None:
    """Names and JSON are truncated; more signals than fit become one unreadable signal, which denies."""
    long = of_own(own_consent(json.dumps({"n" * 5_000: "denied", "x": {"y": ["z" * 9_000]}})))
    assert long["n" * 128] == "denied"
    assert len(long["x.y"]) == MAX_JSON
    many = of_own(own_consent(json.dumps({f"cmp.{n}": "granted" for n in range(5_000)})))
    assert many["consent"] == TOO_MANY
    assert len(many) == MAX_SIGNALS + 1
    same = of_own(own_consent("{" + ",".join(f'"cmp.m":"{n}"' for n in range(5_000)) + "}"))
    assert same["consent"] == TOO_MANY


JSON_VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-9, 9), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


@given(
    st.sampled_from(["cmp.marketing", "marketing", "ad_storage", "cm.ad_storage", "gcs", "gpp", "tc_string", "gpc", "npa"]),
    JSON_VALUES,
)
def test_any_value_under_a_name_becomes_a_signal(name: str, value: Any) -> None:
    """Any JSON value under a signal's name becomes a signal of that name or beneath it, in every protocol."""
    consent = json.dumps({name: value})
    signals = of_own(own_consent(consent))
    if isinstance(value, dict) and name == "marketing":
        assert signals
    else:
        assert any(key.removeprefix("cm.") == name.removeprefix("cm.") for key in signals)
    assert of_segment(filled('{"event":"A","context":{"consent":%s}}', consent), "track") == signals
    assert of_ga4(filled('{"client_id":"1","consent":%s,"events":[{"name":"x"}]}', consent)) == signals


@given(st.lists(st.tuples(st.sampled_from(["cmp.m", "gcs", "x"]), st.sampled_from(["0", "1", "2"])), max_size=8))
def test_the_order_of_words_changes_no_word(words: list[tuple[str, str]]) -> None:
    """Each value is present once under its name, in any order of calls."""

    def of(order: list[tuple[str, str]]) -> set[tuple[str, str]]:
        signals = SignalBuilder()
        for name, text in order:
            signals.put(name, text)
        return {(name.partition("#")[0], text) for name, text in signals.as_map().items()}

    assert of(words) == of(words[::-1]) == set(words)


READERS: list[Callable[[Any], Item]] = [own.parse_item, segment.parse_item, snowplow.parse_item]


@given(
    st.dictionaries(
        st.sampled_from(["event_name", "type", "e", "consent", "context", "co", "cx", "gpc", "properties", "country"]),
        JSON_VALUES,
    )
)
def test_readers_never_raise(item: dict[str, Any]) -> None:
    """Any JSON item is parsed to an event or refused."""
    for parse in READERS:
        parse({"event_name": "x", "type": "page", "e": "pv"} | item)
    ga4.parse_item({"shared": item, "event": {"name": "x", "params": item}})
