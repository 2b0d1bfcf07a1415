"""Well-formed inputs of each target, from which fuzzing starts, and a mutator for where atheris is not installed."""

import base64
import gzip
import random
import zlib

import orjson

EVENT = {
    "event_name": "purchase", "event_id": "e-1", "client_id": "c-1", "user_id": 17, "event_ts": "2026-11-24T12:00:00Z",
    "page_location": "https://shop.example/?gclid=g#a", "value": "19,90 €", "currency": "EUR",
    "items": [{"id": 1, "price": 2.5}],
    "user_data": {"email": ["ada@example.org"], "phone": "+49 30 901820"}, "consent": {"cmp": {"marketing": False}},
    "properties": {"note": {"a": [1, None, True, "x"]}}, "user_properties": {"tier": "gold"},
}  # fmt: skip
CALL = {
    "type": "track", "event": "Order Completed", "anonymousId": "a", "messageId": "m", "context": {"ip": "192.0.2.7",
    "page": {"url": "https://shop.example/"}, "device": {"id": "d"}, "screen": {"width": 1, "height": 2},
    "traits": {"email": "x"}},
    "properties": {"products": [{"product_id": "1"}], "revenue": 5}, "timestamp": 1795514401000,
}  # fmt: skip
IGLU = "iglu:com.snowplowanalytics.snowplow"
DESCRIBED = {
    "schema": f"{IGLU}/unstruct_event/jsonschema/1-0-0",
    "data": {"schema": "iglu:com.x/add_to_cart/jsonschema/1-0-0", "data": {"a": 1}},
}
ENTITIES = {
    "schema": f"{IGLU}/contexts/jsonschema/1-0-1",
    "data": [{"schema": "iglu:com.headwater/consent/jsonschema/1-0-0", "data": {"cmp.x": "0"}}],
}
TRACKED = [
    {"e": "ue", "aid": "k", "ue_pr": orjson.dumps(DESCRIBED).decode(), "co": orjson.dumps(ENTITIES).decode(),
     "dtm": "1795514401000"},
    {"e": "tr", "tr_id": "o-1", "tr_tt": "19.9", "cx": base64.urlsafe_b64encode(orjson.dumps(ENTITIES)).decode()},
    {"e": "ti", "ti_id": "o-1", "ti_sk": "s", "ti_pr": "1"},
]  # fmt: skip
HIT = b"v=2&tid=G-1&cid=1.2&en=x&ep.a=b&epn.value=1.5&up.t=g&pr1=idX~nmY~k0c~v0r&gcs=G111\nen=y&_s=1&_p=2"
MEASURED = {
    "client_id": "1.2",
    "events": [{"name": "x", "params": {"items": [{"item_id": "1"}], "value": 1}}],
    "user_properties": {"a": {"value": 1}},
}
MERGE = {"mergeProperties": [{"type": "email", "value": "ada@example.org"}, {"type": "user_id", "value": "u"}]}
TOLERANT = b'{"a": NaN, "b": 123456789012345678901234567890, "c": "\\ud800", "a": 1e999, "d": "\xff\x01"}\n{"e": [[{}]]}'

SEEDS: dict[str, list[bytes]] = {
    "own": [orjson.dumps(EVENT), orjson.dumps({"events": [EVENT], "consent": {"a": 1}}),
            b'{"event_name":"x","a":1,"a":{"b":2,"b":3}}'],
    "segment": [orjson.dumps(CALL), orjson.dumps({"batch": [CALL, {"type": "group", "traits": {"name": "x"}}], "context": {}})],
    "snowplow": [orjson.dumps({"schema": f"{IGLU}/payload_data/jsonschema/1-0-4", "data": TRACKED})],
    "ga4": [orjson.dumps(MEASURED)],
    "gtag": [HIT],
    "pixel": [b"context.page.url=a&event=x&userId=1&userId=2&a=1&a.b=2", b"data=" + base64.b64encode(orjson.dumps(CALL))],
    "merge": [orjson.dumps(MERGE)],
    "choices": [b'{"choices":[{"client_id":"c","consent":{"cmp.a":"0"},"chosen_ts":1,"site":"shop.example"}]}'],
    "tolerant_json": [TOLERANT, orjson.dumps(EVENT)],
    "compression": [gzip.compress(b"{}" * 50, mtime=0), zlib.compress(b"[1]" * 50), b"\x0b\x02\x80abcde\x03"],
    "address": [b"[2001:db8::1%eth0]:443", b"::ffff:192.0.2.1, 10.0.0.1", b'"192.0.2.1:80"'],
    "money": ["1.234,50 €".encode(), b"US$ 1,234.50", b"-1e3", "12’345.60 CHF".encode()],
    "times": [b"2026-11-24T12:00:00.5+01:00", b"Tue, 24 Nov 2026 12:00:00 GMT", b"1795514401000", b"3 d ago"],
}  # fmt: skip
PIECES = (
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\ud800", b"null", b"1e400", b"-0", b"9" * 25, b"\xff", b"\x00", b"%",
    b"=", b"&", b"~", b"#2", b"ada@example.org", "é".encode(), b".", b"[" * 40, b'{"a":' * 40, b" " * 300, b"+49 30 901820",
)  # fmt: skip


def mutate(seed: bytes, choose: random.Random, limit: int) -> bytes:
    """Return the seed with some of its parts replaced, repeated, removed, or joined by the pieces that break parsers."""
    data = bytearray(seed)
    for _ in range(choose.randint(1, 8)):
        begin = choose.randint(0, len(data))
        end = min(len(data), begin + choose.choice((0, 1, 4, 16, 64)))
        match choose.randrange(4):
            case 0:
                data[begin:end] = choose.choice(PIECES)
            case 1:
                data[begin:begin] = data[begin:end] * choose.choice((1, 2, 50))
            case 2:
                del data[begin:end]
            case _:
                data[begin:end] = bytes(choose.randrange(256) for _ in range(end - begin))
    return bytes(data[:limit])


__all__ = ["SEEDS", "mutate"]
