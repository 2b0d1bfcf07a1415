"""Bodies as senders write them: compressed, damaged, too large, too many; and what is left of those that are refused."""

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import brotli  # type: ignore[import-untyped] # publishes no types
import orjson
import pytest

from streams.collector.event import InvalidItem
from streams.collector.http import handlers, server
from tests.streams.collector.http.served import ServedCollector

EVENT = {"event_name": "x", "client_id": "c-1", "text": "straße"}
SOUND = orjson.dumps(EVENT)
PAYLOAD = "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedCollector]:
    """A collector."""
    with ServedCollector(tmp_path_factory.mktemp("bodies")) as collector:
        yield collector


@pytest.fixture
def collector(served: ServedCollector) -> ServedCollector:
    """The collector, whose sink is empty."""
    served.sink.records.clear()
    return served


def gzipped(content: bytes) -> bytes:
    """Return gzip without the time, so that each process collects equal parameters."""
    return gzip.compress(content, mtime=0)


def raw_deflate(data: bytes) -> bytes:
    """Deflate without zlib's header."""
    engine = zlib.compressobj(wbits=-15)
    return engine.compress(data) + engine.flush()


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gzipped(SOUND), "gzip"),
        (gzipped(SOUND), "x-gzip"),
        (gzipped(SOUND), ""),
        (gzipped(SOUND), "br"),
        (gzipped(gzipped(SOUND)), "gzip, gzip"),
        (gzipped(gzipped(SOUND)), "gzip"),
        (zlib.compress(SOUND), "deflate"),
        (zlib.compress(SOUND), ""),
        (zlib.compress(SOUND), "gzip"),
        (raw_deflate(SOUND), "deflate"),
        (raw_deflate(SOUND), ""),
        (brotli.compress(SOUND), "br"),
        (brotli.compress(SOUND), ""),
        (brotli.compress(SOUND), "BR"),
        (SOUND, "gzip"),
        (SOUND, "br"),
        (SOUND, "identity"),
        (SOUND, "utf-8"),
        (SOUND, "deflate, gzip"),
        (b"\xef\xbb\xbf" + SOUND, ""),
        (gzipped(b"\xef\xbb\xbf" + SOUND), "gzip"),
    ],
)
def test_the_bytes_count_more_than_the_header(collector: ServedCollector, body: bytes, encoding: str) -> None:
    """Every compression is undone, with the header, without it and with a wrong one; a byte order mark is passed over."""
    answer = collector.post("/v1/events", body, **({"Content-Encoding": encoding} if encoding else {}))
    assert answer.json == {"success": True, "accepted": 1, "refused": []}
    assert [event["properties"]["text"] for event in collector.take_events()] == ["straße"]


@pytest.mark.parametrize("body", [b"no gzip at all", gzipped(SOUND)[:-9], b"xx"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_a_body_that_does_not_decompress(collector: ServedCollector, body: bytes, encoding: str) -> None:
    """400 ENCODING as JSON; its bytes are a dead letter."""
    answer = collector.post("/v1/events", body, **{"Content-Encoding": encoding})
    assert (answer.status, answer.json["code"]) == (400, "ENCODING")
    assert collector.take_letters() == [("ENCODING", "web-de", body)]


@pytest.mark.parametrize("compress", [gzipped, zlib.compress, raw_deflate, brotli.compress])
def test_a_bomb_is_too_large(collector: ServedCollector, compress: Any) -> None:
    """What inflates beyond the limit is 413; its bytes as sent are a dead letter."""
    bomb = compress(b'[{"a": "' + b"x" * 50_000_000)
    encoding = {gzipped: "gzip", brotli.compress: "br"}.get(compress, "deflate")
    answer = collector.post("/v1/events", bomb, **{"Content-Encoding": encoding})
    assert (answer.status, answer.json["code"]) == (413, "TOO_LARGE")
    assert collector.take_letters() == [("TOO_LARGE", "web-de", bomb)]


def test_a_large_body_is_kept_up_to_the_limit(collector: ServedCollector) -> None:
    """413 closes the connection, because the rest was not read; the key may stand in the bytes that were."""
    body = orjson.dumps({"writeKey": collector.other_key, "batch": ["x" * 1_000_000] * 2})
    answer = collector.send("POST", "/v1/batch", body)
    assert (answer.status, answer.headers.get("connection")) == (413, "close")
    ((reason, source, kept_bytes),) = collector.take_letters()
    assert (reason, source, kept_bytes) == ("TOO_LARGE", "app", body[:1_000_000])
    assert collector.send("POST", "/v1/events", body.replace(collector.other_key.encode(), b"")).status == 401
    assert collector.take_letters() == []


@pytest.mark.parametrize(
    ("body", "text", "problem"),
    [
        (b'{"event_name":"x","text":"a\xffb"}', "a�b", "invalid UTF-8 was replaced"),
        (b'{"event_name":"x","text":"a\\ud800b"}', "a�b", "unpaired surrogates were replaced"),
        (b'{"event_name":"x","text":"\\udc00\\ud83d\\ude00"}', "�😀", "unpaired surrogates were replaced"),
        (b'{"event_name":"x","text":"\\\\ud800"}', "\\ud800", ""),
        (b'{"event_name":"x","text":"a","n":NaN}', "a", "NaN and Infinity were read as null"),
        (b'{"event_name":"x","text":"a","n":[-Infinity,Infinity]}', "a", "NaN and Infinity were read as null"),
        (b'{"event_name":"x","text":"a","n":1e999}', "a", "NaN and Infinity were read as null"),
        (b'{"event_name":"x","text":"a\tb"}', "a\tb", "control characters in texts were accepted"),
        (
            b'{"event_name":"x","text":123456789012345678901234567890}',
            "123456789012345678901234567890",
            "integers beyond 64 bits",
        ),
        (b'{"event_name":"x","text":-99999999999999999999}', "-99999999999999999999", "integers beyond 64 bits"),
        (b'{"event_name":"x","text":18446744073709551615}', "18446744073709551615", ""),
        (b'{"event_name":"x","text":"123456789012345678901234567890"}', "123456789012345678901234567890", ""),
    ],
)
def test_damage_is_mended_and_named(collector: ServedCollector, body: bytes, text: str, problem: str) -> None:
    """The event is accepted with what could be read, and the answer names what was not."""
    answer = collector.post("/v1/events", body).json
    assert (answer["accepted"], len(answer.get("mended", []))) == (1, int(bool(problem)))
    assert problem in "".join(answer.get("mended", []))
    assert [event["properties"]["text"] for event in collector.take_events()] == [text]


def test_repeated_keys_survive_the_tolerant_parser(collector: ServedCollector) -> None:
    """A dropped value may be a refusal."""
    collector.post("/v1/events", b'{"event_name":"\xff","consent":{"cmp.m":"0","cmp.m":"1"}}')
    assert [event["signals"] for event in collector.take_events()] == [{"cmp.m": "0", "cmp.m#2": "1"}]


def test_lines_of_json_are_events(collector: ServedCollector) -> None:
    """One object a line, as log shippers send; a line that is no JSON is a dead letter of its own."""
    answer = collector.post("/v1/events", b'{"event_name":"a"}\r\n\n{"event_name":\n{"event_name":"b"}\n').json
    assert (answer["accepted"], [item["index"] for item in answer["refused"]]) == (2, [1])
    records = list(collector.sink.records)
    assert [event["event_name"] for event in collector.take_events()] == ["a", "b"]
    collector.sink.records += records
    assert collector.take_letters() == [("CONTRACT", "web-de", b'"{\\"event_name\\":"')]


@pytest.mark.parametrize(
    "body",
    [
        b'{"event_name"',
        b"\xff",
        b"[" * 100_000,
        b"{}{}",
        b"'",
        '{"event_name": "x"}'.encode("utf-16"),
        '{"event_name": "x"}'.encode("utf-32-le"),
    ],
)
def test_what_is_no_json_is_a_dead_letter_of_a_known_key(collector: ServedCollector, body: bytes) -> None:
    """400, with the bytes as they were sent; without a key there is no source, and nothing is kept."""
    answer = collector.post("/v1/events", body)
    assert (answer.status, answer.json["code"]) == (400, "INVALID_JSON")
    assert collector.take_letters() == [("INVALID_JSON", "web-de", body)]
    collector.send("POST", "/v1/batch", body)
    assert collector.take_letters() == []


def test_wide_encodings_are_named(collector: ServedCollector) -> None:
    """The message says what the body is."""
    assert "UTF-16" in collector.post("/v1/events", '{"a": 1}'.encode("utf-16")).json["message"]


def test_a_truncated_body_names_its_source_itself(collector: ServedCollector) -> None:
    """Snowplow's key stands in the events: it is looked for in the bytes."""
    body = orjson.dumps({"schema": PAYLOAD, "data": [{"aid": collector.other_key, "e": "pv"}]})[:-2]
    answer = collector.send("POST", "/com.snowplowanalytics.snowplow/tp2", body)
    assert (answer.status, collector.take_letters()) == (400, [("INVALID_JSON", "app", body)])


def test_many_events_are_processed_in_slices(collector: ServedCollector) -> None:
    """Up to 5,000; refused ones keep their index in the request."""
    items: list[Any] = [{"event_name": "x"}] * 1_200
    items[1_100] = 17
    answer = collector.post("/v1/events", items, Authorization=f"Bearer {collector.other_key}").json
    assert (answer["accepted"], [item["index"] for item in answer["refused"]]) == (1_199, [1_100])
    body = orjson.dumps([{}] * 5_001)
    answer_of_all = collector.post("/v1/events", body)
    assert (answer_of_all.status, answer_of_all.json["code"]) == (400, "TOO_MANY")
    assert collector.take_letters()[-1] == ("TOO_MANY", "web-de", body)


def test_a_source_beyond_its_rate_is_counted(collector: ServedCollector) -> None:
    """429 by source; a first batch above the burst passes once, and its source then waits."""
    authorized = {"Authorization": f"Bearer {collector.slow_key}"}
    assert collector.post("/v1/events", [{"event_name": "x"}] * 600, **authorized).status == 200
    assert collector.post("/v1/events", {"event_name": "x"}, **authorized).status == 429
    assert collector.metric("headwater_rate_limited_total", source="slow") == 1


def test_a_failure_on_one_item_costs_this_item(collector: ServedCollector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where building a record raises, the item is a dead letter and the others are accepted."""
    build = type(collector.intake._normaliser).build_record

    def fail(self: Any, event: Any, *rest: Any) -> Any:
        if event.name == "fails":
            raise ZeroDivisionError
        return build(self, event, *rest)

    monkeypatch.setattr(type(collector.intake._normaliser), "build_record", fail)
    answer = collector.post("/v1/events", [{"event_name": name} for name in ("a", "fails", "b")])
    assert (answer.status, answer.json["accepted"], answer.json["refused"][0]["index"]) == (200, 2, 1)
    assert [json.loads(body)["event_name"] for _, _, body in collector.take_letters()] == ["fails"]
    assert "ZeroDivisionError" in answer.json["refused"][0]["message"]


def test_a_parser_that_fails_costs_one_item() -> None:
    """Where a protocol's parser raises what it should not, the item is invalid; others are parsed."""

    def parse(item: Any) -> InvalidItem:
        return InvalidItem(f"refused {1 // item}")

    assert handlers._guard(parse)(0) == InvalidItem("the collector failed on it: ZeroDivisionError")
    assert handlers._guard(parse)(1) == InvalidItem("refused 1")


def test_an_unforeseen_failure_is_a_503_that_everybody_can_read(
    collector: ServedCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON, Retry-After, counted by its status; the body is a dead letter where its source is known."""
    monkeypatch.setattr("streams.collector.http.handlers.answer_events", lambda *_: 1 / 0)
    answer = collector.post("/v1/events", SOUND)
    assert (answer.status, answer.json["code"], answer.headers["retry-after"]) == (503, "FAILED", "30")
    assert collector.take_letters() == [("FAILED", "web-de", SOUND)]
    assert collector.metric("headwater_requests_total", door="/v1/events", status="503") >= 1


def test_no_room_is_a_503(collector: ServedCollector) -> None:
    """For events, and for the dead letter of a body that is refused: its sender must keep it."""
    collector.sink.full = True
    try:
        for body in (SOUND, b"{"):
            answer = collector.post("/v1/events", body)
            assert (answer.status, answer.json["code"], answer.headers["retry-after"]) == (503, "FULL", "5")
    finally:
        collector.sink.full = False


def test_long_queries_and_cookies_are_read(collector: ServedCollector) -> None:
    """An event of 30,000 characters in a query, beside as many cookies."""
    query = f"e=pv&aid={collector.key}&page={'x' * 30_000}"
    assert collector.send("GET", f"/i?{query}", headers={"Cookie": "c=" + "y" * 30_000}).status == 200
    assert len(collector.take_events()) == 1


def test_an_event_that_grows_beyond_a_record_is_refused(collector: ServedCollector) -> None:
    """An invalid byte becomes three, so that an event may outgrow Kafka's records, where it would block the spool for ever."""
    fields = b",".join(b'"p%d":"%s"' % (number, b"\xff" * 4_000) for number in range(190))
    body = b'{"event_name":"x",%s}' % fields
    answer = collector.post("/v1/events", body)
    assert (answer.status, answer.json["code"]) == (413, "TOO_LARGE")
    assert collector.take_letters() == [("TOO_LARGE", "web-de", body)]


def test_more_bodies_than_a_process_can_hold_are_sent_again_later(
    collector: ServedCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound on unanswered bodies it is 503 with Retry-After, and the next request is accepted."""
    monkeypatch.setattr(server, "MAX_HELD", 100)
    answer = collector.post("/v1/events", {"event_name": "x", "text": "y" * 200})
    assert (answer.status, answer.json["code"], answer.headers["retry-after"]) == (503, "BUSY", "1")
    assert collector.post("/v1/events", {"event_name": "x"}).status == 200
