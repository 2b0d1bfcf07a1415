"""The doors over HTTP: a real collector process with a real broker."""

import base64
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from infra.ops.embedded.ports import free_port
from infra.ops.embedded.servers.kafka import EmbeddedKafka
from infra.ops.topics import apply
from infra.payload_keyring import PayloadKeyring
from infra.secrets import Secret
from infra.settings import Settings
from schemas.codec import decode
from schemas.registry import Registry
from streams.collector.http.rejections import STATUS
from streams.collector.write_keys import KeyKind, create_key, revoke_keys
from streams.identity.nodes import NodeKeys, node
from streams.runtime.dead_letters.dead_letter import open_letter
from tests.broker.copying import read_committed

SECRET = "for tests only, forty characters long..."
README = Path(__file__).resolve().parents[3] / "streams" / "collector" / "README.md"


class Collector:
    """`headwater collect` in a process of its own."""

    def __init__(self, kafka: str, folder: Path, *options: str) -> None:
        self.folder = folder
        self.kafka = kafka
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.keys = folder / "write-keys.json"
        self.key = create_key(self.keys, "web-de", site="shop.example")
        self._options = options
        self.registry = Registry(Settings().contracts)

    def start(self) -> None:
        """Start the process and wait until it answers."""
        environment = {
            **os.environ,
            "HEADWATER_KAFKA": self.kafka,
            "HEADWATER_STATE_DIR": str(self.folder),
            "HEADWATER_SECRET": SECRET,
        }
        command = [sys.executable, "-m", "infra.ops.cli", "collect", "--port", str(self.port), *self._options]
        with (self.folder / "collector.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        wait_until(self._lives, 90)

    def _lives(self) -> bool:
        assert self.process.poll() is None, (self.folder / "collector.log").read_text()
        try:
            return requests.get(f"{self.url}/health/live", timeout=1).ok
        except requests.ConnectionError:
            return False

    def stop(self) -> None:
        """Terminate the process, and kill it after 15 seconds."""
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def send(self, body: Any, path: str = "/v1/events", **headers: str) -> requests.Response:
        """POST objects as JSON and bytes unchanged, with the key as Bearer unless `Authorization` is given."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return requests.post(self.url + path, data=data, headers={"Authorization": f"Bearer {self.key}"} | headers, timeout=20)

    def events(self, mark: str) -> list[dict[str, Any]]:
        """Return the records of events.raw with this property `mark`."""
        records = [decode(self.registry, message.value())[1] for message in read_committed(self.kafka, "events.raw")]
        return [record for record in records if record["properties"].get("mark") == mark]


def wait_until(condition: Callable[[], Any], seconds: float) -> None:
    """Poll with a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def collector(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """A collector on the shared broker."""
    apply(Settings(kafka=kafka))
    collector = Collector(kafka, tmp_path_factory.mktemp("collector"), "--micro", "--cors-origin", "https://shop.example")
    collector.start()
    yield collector
    collector.stop()


@pytest.fixture(scope="module")
def regional(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """A collector that trusts a proxy's header for the region."""
    apply(Settings(kafka=kafka))
    collector = Collector(kafka, tmp_path_factory.mktemp("regional"), "--region-header", "X-Region")
    collector.start()
    yield collector
    collector.stop()


def refused(answer: requests.Response, reason: str) -> None:
    """Assert that the answer is the one of the table for this reason."""
    status, _ = next(row for of, row in STATUS.items() if of == reason)
    assert (answer.status_code, answer.json()["code"]) == (status, reason)
    assert answer.json()["message"]


def test_a_200_means_that_kafka_has_the_event(collector: Collector) -> None:
    """The event is on the topic when the answer comes, keyed by its subject."""
    mark = uuid.uuid4().hex
    answer = collector.send({"event_name": "page_view", "client_id": "c-1", "mark": mark})
    assert answer.json() == {"success": True, "accepted": 1, "refused": []}
    (event,) = collector.events(mark)
    assert (event["source"], event["site"], event["protocol"]) == ("web-de", "shop.example", "headwater")


@pytest.mark.parametrize(
    ("body", "headers", "reason"),
    [
        (b'{"event_name"', {}, "INVALID_JSON"),
        (b"\xff\xfe", {}, "INVALID_JSON"),
        (b"", {}, "INVALID_JSON"),
        (b'{"event_name": "x"}', {"Authorization": "Bearer wrong"}, "UNKNOWN_KEY"),
        (b'{"event_name": "x"}', {"Authorization": ""}, "UNKNOWN_KEY"),
        (b'"' + b"x" * 10_000_000 + b'"', {}, "TOO_LARGE"),
        (gzip.compress(b'"' + b"x" * 10_000_000 + b'"'), {"Content-Encoding": "gzip"}, "TOO_LARGE"),
        (b"no gzip at all", {"Content-Encoding": "gzip"}, "ENCODING"),
        (b'{"event_name": "x", "a": ' + b"[" * 40 + b"]" * 40 + b"}", {}, "TOO_DEEP"),
        (b"[" * 100_000, {}, "INVALID_JSON"),
        (json.dumps([{"event_name": "x"}] * 5_001).encode(), {}, "TOO_MANY"),
        (b'{"event_name": [17]}', {}, "CONTRACT"),
        (b"17", {}, "CONTRACT"),
    ],
)
def test_rejections_are_those_of_the_table(collector: Collector, body: bytes, headers: dict[str, str], reason: str) -> None:
    """Each rejection has its status, its code and a message."""
    refused(collector.send(body, **headers), reason)


def test_the_largest_dead_letter_reaches_kafka(collector: Collector) -> None:
    """One of 1,000,000 bytes does not block the spool: what is sent after it arrives too."""
    body = os.urandom(1_200_000)
    refused(collector.send(body), "TOO_LARGE")
    assert body[:1_000_000] in letters(collector)
    mark = uuid.uuid4().hex
    assert collector.send({"event_name": "after", "mark": mark}).ok
    assert len(collector.events(mark)) == 1


def test_the_readme_shows_the_table() -> None:
    """The README lists every rejection with its status."""
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (\d+) \|", README.read_text(), re.MULTILINE))
    assert rows == {str(reason): str(status) for reason, (status, _) in STATUS.items()}


def test_no_such_door(collector: Collector) -> None:
    """An unknown path is answered 404 with code and message."""
    refused(collector.send({}, "/v2/events"), "NOT_FOUND")


def test_good_items_of_a_batch_are_taken_and_bad_ones_are_dead_letters(collector: Collector) -> None:
    """The answer lists the refused ones; their bytes are on events.dead, encrypted."""
    mark = uuid.uuid4().hex
    answer = collector.send(
        [{"event_name": "a", "mark": mark}, {"event_name": [5], "mark": mark}, {"event_name": "b", "mark": mark}]
    )
    summary = answer.json()
    assert (answer.status_code, summary["accepted"], [item["index"] for item in summary["refused"]]) == (200, 2, [1])
    assert sorted(event["event_name"] for event in collector.events(mark)) == ["a", "b"]
    dead = [message.value() for message in read_committed(collector.kafka, "events.dead")]
    assert dead
    assert not any(mark.encode() in value for value in dead)


def test_choices_without_an_event_go_to_their_subjects(collector: Collector) -> None:
    """Each identifier gets a record, keyed by its pseudonym, with choice and time; no identifier is in clear."""
    name = uuid.uuid4().hex
    choice_item = {
        "user_id": name,
        "user_data": {"email": f"{name}@example.org"},
        "consent": {"cmp.marketing": False},
        "chosen_ts": 1_795_000_000_017,
    }
    answer = collector.send([choice_item, {"client_id": name, "kind": "withdrawal", "purposes": ["analytics"]}], "/v1/consent")
    sites = ["shop.example", "www.shop.example"]
    assert answer.json() == {"success": True, "accepted": 2, "refused": [], "holds_for": sites}
    keys = NodeKeys.derive(Secret(SECRET))
    subjects = {
        str(node(keys, kind, value)) for kind, value in (("user", name), ("email", f"{name}@example.org"), ("cookie", name))
    }
    messages = [(message.key().decode(), message.value()) for message in read_committed(collector.kafka, "consent.signals")]
    records = [decode(collector.registry, value)[1] for key, value in messages if key in subjects]
    assert {record["subject"] for record in records} == subjects
    assert len(records) == 3
    assert not any(name.encode() in value for _, value in messages)
    withdrawal = next(record for record in records if record["kind"] == "withdrawal")
    choice = next(record for record in records if record["kind"] == "choice")
    assert (withdrawal["purposes"], withdrawal["site"], withdrawal["via"]) == (["analytics"], "shop.example", "webhook")
    assert (choice["signals"], choice["chosen_ts"]) == ({"cmp.marketing": "denied"}, 1_795_000_000_017)


@pytest.mark.parametrize(
    "item",
    [
        {"client_id": "c"}, {"consent": {"cmp.marketing": "0"}}, {"client_id": "undefined", "kind": "withdrawal"}, 17,
        {"client_id": "c", "kind": "perhaps"}, {"client_id": "c", "kind": "withdrawal", "purposes": ["all"]},
        {"client_id": "c", "kind": "withdrawal", "purposes": "analytics"}, {"client_id": "c", "consent": "yes"},
        {"client_id": "c", "kind": "withdrawal", "site": "other.example"}, {"client_id": "c", "consent": {"sales": "0"}},
        {"client_id": "c", "consent": {"cmp.marketing": "hm"}}, {"client_id": "c", "consent": {"gcs": "G100", "cmp.x": "0"}},
    ],
)  # fmt: skip
def test_invalid_choices_are_refused(collector: Collector, item: Any) -> None:
    """A choice without subject, without choice or with unknown purposes is answered 400 with a message."""
    refused(collector.send([item], "/v1/consent"), "CONTRACT")


def letters(collector: Collector) -> list[bytes]:
    """Return the decrypted bytes of all dead letters."""
    keyring = PayloadKeyring(collector.folder / "keyring", Secret(SECRET))
    dead = [decode(collector.registry, message.value())[1] for message in read_committed(collector.kafka, "events.dead")]
    return [open_letter(letter, keyring)[1] for letter in dead if letter["stage"] == "collector"]


@pytest.mark.parametrize("body", ['{ "client_id": "%s", "consent": {"gcs": "G1"} }', '"%s"', '{"choices": "%s"}'])
def test_a_choice_that_is_not_understood_is_kept_byte_for_byte(collector: Collector, body: str) -> None:
    """It is answered 400, and the dead letter has the bytes that were sent."""
    raw = (body % uuid.uuid4().hex).encode()
    refused(collector.send(raw, "/v1/consent"), "CONTRACT")
    assert raw in letters(collector)


def test_a_time_that_cannot_be_read_is_a_warning(collector: Collector) -> None:
    """The choice is accepted, and the answer warns about its time."""
    answer = collector.send({"client_id": "c", "kind": "withdrawal", "chosen_ts": "yesterday"}, "/v1/consent").json()
    assert (answer["success"], [warning["index"] for warning in answer["warnings"]]) == (True, [0])


@pytest.mark.parametrize(
    ("kind", "header", "own_region", "region"),
    [
        ("browser", "US", "", "US"), ("browser", "DE", "US", "DE"), ("browser", "", "US", ""), ("browser", "Ohio", "US", ""),
        ("server", "US", "", ""), ("server", "US", "DE", "DE"), ("server", "DE", "US-CA", "US-CA"),
        ("import", "US", "Ohio", ""),
    ],
)  # fmt: skip
def test_the_region_depends_on_the_kind_of_key(
    regional: Collector, kind: KeyKind, header: str, own_region: str, region: str
) -> None:
    """The trusted header counts under a browser's key, the event's own region under a server's."""
    mark = uuid.uuid4().hex
    key = create_key(regional.keys, kind, site="shop.example", kind=KeyKind(kind))
    authorized = {"Authorization": f"Bearer {key}", "X-Region": header}
    event = {"event_name": "x", "mark": mark, "region": own_region}
    wait_until(lambda: regional.send(event, **authorized).ok, 5)
    assert {record["region"] for record in regional.events(mark)} == {region}


def test_the_browsers_objection_is_passed_on_as_sent(collector: Collector) -> None:
    """Any value of Sec-GPC but 0 is a signal beside those of the body."""
    expected = {"1": {"gpc": "1", "gpc#2": "0"}, "yes": {"gpc": "yes", "gpc#2": "0"}, "0": {"gpc": "0"}, "": {"gpc": "0"}}
    for header, signals in expected.items():
        mark = uuid.uuid4().hex
        assert collector.send({"event_name": "x", "mark": mark, "consent": {"gpc": False}}, **{"Sec-GPC": header}).ok
        assert [record["signals"] for record in collector.events(mark)] == [signals]


def test_repeated_keys_of_a_request_are_kept(collector: Collector) -> None:
    """Both values of a repeated JSON key and of a repeated query parameter are kept."""
    mark = uuid.uuid4().hex
    body = b'{"event_name":"x","mark":"%s","consent":{"cmp.m":"0","cmp.m":"1"}}' % mark.encode()
    assert collector.send(body).ok
    assert [record["signals"] for record in collector.events(mark)] == [{"cmp.m": "0", "cmp.m#2": "1"}]
    entities = [[{"schema": "iglu:com.headwater/consent/jsonschema/1-0-0", "data": {"cmp.m": word}}] for word in "01"]
    co = [json.dumps({"schema": "iglu:c/contexts/jsonschema/1-0-0", "data": data}) for data in entities]
    page = f"https://{mark}.example/"
    query: list[tuple[str, str]] = [("e", "pv"), ("aid", collector.key), ("url", page), *(("co", text) for text in co)]
    assert requests.get(f"{collector.url}/i", query, timeout=10).ok
    records = [decode(collector.registry, message.value())[1] for message in read_committed(collector.kafka, "events.raw")]
    (signals,) = [record["signals"] for record in records if record["page_url"] == page]
    assert sorted(signals.values()) == ["0", "1"]


def test_compressed_bodies_are_read(collector: Collector) -> None:
    """gzip is accepted; rudder-sdk-python sends it by default."""
    mark = uuid.uuid4().hex
    body = gzip.compress(json.dumps({"event_name": "x", "mark": mark}).encode())
    assert collector.send(body, **{"Content-Encoding": "gzip"}).ok
    assert len(collector.events(mark)) == 1


def test_segment_accepts_the_key_as_user_name_or_in_the_body(collector: Collector) -> None:
    """The key is the user name of Basic, or `writeKey`."""
    call = {"event": "A", "anonymousId": "c", "messageId": "m"}
    basic = base64.b64encode(f"{collector.key}:".encode()).decode()
    assert collector.send(call, "/v1/track", Authorization=f"Basic {basic}").ok
    assert collector.send({**call, "writeKey": collector.key}, "/v1/track", Authorization="").ok
    refused(collector.send(call, "/v1/track", Authorization=""), "UNKNOWN_KEY")


def test_a_trackers_bad_event_is_answered_ok(collector: Collector) -> None:
    """Because Snowplow trackers repeat refusals for ever, it is answered 200 and becomes a dead letter."""
    body = {
        "schema": "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4",
        "data": [{"e": "nonsense", "aid": collector.key}],
    }
    before = len(read_committed(collector.kafka, "events.dead"))
    answer = collector.send(body, "/com.snowplowanalytics.snowplow/tp2")
    assert (answer.status_code, answer.text) == (200, "ok")
    assert len(read_committed(collector.kafka, "events.dead")) == before + 1


def test_the_pixel(collector: Collector) -> None:
    """GET /i answers with an image."""
    answer = requests.get(f"{collector.url}/i", {"e": "pv", "aid": collector.key, "url": "https://x.example/"}, timeout=10)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/gif")


def test_ga4_debug_lists_problems(collector: Collector) -> None:
    """`/debug/mp/collect` lists the problem that `/mp/collect` answers 200."""
    query = f"?api_secret={collector.key}&measurement_id=G-1"
    body = {"client_id": "c", "events": [{"name": "x" * 50}]}
    report = collector.send(body, f"/debug/mp/collect{query}", Authorization="").json()
    assert [message["fieldPath"] for message in report["validationMessages"]] == ["events[0]"]
    assert collector.send(body, f"/mp/collect{query}", Authorization="").status_code == 200


def test_only_listed_origins_may_send_from_a_browser(collector: Collector) -> None:
    """A preflight of a listed origin has CORS headers, one of another origin has none."""
    listed = requests.options(f"{collector.url}/v1/events", headers={"Origin": "https://shop.example"}, timeout=10)
    assert listed.headers["Access-Control-Allow-Origin"] == "https://shop.example"
    other = requests.options(f"{collector.url}/v1/events", headers={"Origin": "https://other.example"}, timeout=10)
    assert "Access-Control-Allow-Origin" not in other.headers


def test_micro_shows_good_and_bad(collector: Collector) -> None:
    """Accepted and refused items are listed apart."""
    requests.get(f"{collector.url}/micro/reset", timeout=10)
    collector.send([{"event_name": "seen"}, {"event_name": [5]}])
    good, bad = (requests.get(f"{collector.url}/micro/{selection}", timeout=10).json() for selection in ("good", "bad"))
    assert ([event["event_name"] for event in good], len(bad)) == (["seen"], 1)


def test_a_revoked_key_is_refused_within_a_second_or_two(collector: Collector) -> None:
    """It is refused without a restart; keys of other sources stay valid."""
    other = create_key(collector.keys, "app", site="app.example")
    header = {"Authorization": f"Bearer {other}"}
    wait_until(lambda: collector.send({"event_name": "x"}, **header).ok, 5)
    assert revoke_keys(collector.keys, "app") == 1
    wait_until(lambda: collector.send({"event_name": "x"}, **header).status_code == 401, 5)
    assert collector.send({"event_name": "x"}).ok


def test_a_source_beyond_its_rate_must_wait(collector: Collector) -> None:
    """A source beyond its rate is answered 429 with Retry-After."""
    slow = create_key(collector.keys, "slow", site="x.example", events_per_s=1)
    header = {"Authorization": f"Bearer {slow}"}
    wait_until(lambda: collector.send({"event_name": "x"}, **header).ok, 5)
    answer = collector.send([{"event_name": "x"}] * 500, **header)
    refused(answer, "RATE")
    assert answer.headers["Retry-After"] == "1"


def test_health_and_metrics(collector: Collector) -> None:
    """Readiness and metrics are answered."""
    assert requests.get(f"{collector.url}/health/ready", timeout=10).json()["ready"] is True
    assert "headwater_collected_total" in requests.get(f"{collector.url}/metrics", timeout=10).text


def test_events_are_spooled_while_kafka_hangs(tmp_path: Path) -> None:
    """Events are acknowledged from the spool; `kill -9` and Kafka's return lose none and keep their order."""
    with EmbeddedKafka(tmp_path / "kafka") as broker:
        apply(Settings(kafka=broker.address))
        collector = Collector(broker.address, tmp_path, "--budget", "0.5")
        collector.start()
        mark = uuid.uuid4().hex
        try:
            assert collector.send({"event_name": "before", "client_id": "c", "mark": mark}).ok
            os.kill(broker.pid, signal.SIGSTOP)
            for i in range(3):
                assert collector.send(
                    {"event_name": f"during-{i}", "event_id": f"d{i}-{mark}", "client_id": "c", "mark": mark}
                ).ok
            collector.process.kill()
            collector.process.wait()
            os.kill(broker.pid, signal.SIGCONT)
            collector.start()
            assert collector.send({"event_name": "after", "client_id": "c", "mark": mark}).ok
            names: list[str] = []

            def arrived() -> bool:
                names[:] = list(dict.fromkeys(event["event_name"] for event in collector.events(mark)))
                return "after" in names

            wait_until(arrived, 30)
            assert names == ["before", "during-0", "during-1", "during-2", "after"]
        finally:
            os.kill(broker.pid, signal.SIGCONT)
            collector.stop()
