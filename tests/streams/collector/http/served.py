"""A collector's HTTP side on a real socket, in a thread of the test, whose sink is a list."""

import asyncio
import threading
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from infra.http.listening import build_runner, listen
from infra.payload_keyring import PayloadKeyring
from infra.secrets import Secret
from infra.settings import PACKAGED_CONTRACTS
from infra.telemetry.metrics import Metrics
from schemas.codec import decode
from schemas.registry import Registry
from streams.collector.delivery.spool import SpoolFull, SpoolRecord
from streams.collector.http.options import CollectorOptions
from streams.collector.http.server import CollectorApi
from streams.collector.intake import Intake
from streams.collector.signals.choice_rules import ChoiceRules
from streams.collector.signals.policy_source import PolicySource
from streams.collector.write_keys import KeyKind, WriteKeyStore, create_key
from streams.identity.nodes import NodeKeys
from streams.runtime.dead_letters.dead_letter import open_letter

SECRET = Secret("for tests only, forty characters long...")


class Answer(NamedTuple):
    """An answer of the collector; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The parsed body."""
        return orjson.loads(self.body)


class ListSink:
    """A sink that keeps records in memory, and refuses them where it is full."""

    has_room = True
    last_ack = 0.0

    def __init__(self) -> None:
        self.records: list[SpoolRecord] = []
        self.full = False

    async def send(self, records: Sequence[SpoolRecord]) -> None:
        """Append, or raise as the spool does."""
        if self.full:
            raise SpoolFull
        self.records += records


class ServedCollector:
    """The API of one process with two write keys; `with` starts and stops it."""

    def __init__(self, folder: Path, options: CollectorOptions | None = None) -> None:
        file = folder / "write-keys.json"
        self.key = create_key(file, "web-de", site="shop.example", kind=KeyKind.BROWSER)
        self.other_key = create_key(file, "app", site="app.example")
        self.slow_key = create_key(file, "slow", site="slow.example", events_per_s=1)
        self.registry = Registry(PACKAGED_CONTRACTS)
        self.keyring = PayloadKeyring(folder / "keyring", SECRET)
        self.metrics = Metrics()
        self.sink = ListSink()
        keys = WriteKeyStore(file)
        rules = ChoiceRules(PolicySource(None), keys)
        self.intake = Intake(self.registry, self.keyring, NodeKeys.derive(SECRET), self.metrics, rules)
        self.api = CollectorApi(
            self.intake,
            self.sink,  # type: ignore[arg-type] # a sink in memory
            keys,
            self.metrics,
            options or CollectorOptions(),
        )

    def __enter__(self) -> "ServedCollector":
        started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(20)
        return self

    def _serve(self, started: threading.Event) -> None:
        async def serve() -> None:
            self._stop = asyncio.Event()
            runner = build_runner(self.api.app())
            await runner.setup()
            self.port = await listen(runner, "127.0.0.1", 0)
            started.set()
            await self._stop.wait()
            await runner.cleanup()

        self._loop.run_until_complete(serve())

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        self._loop.close()

    def send(self, method: str, path: str, body: Any = b"", headers: dict[str, str] | None = None) -> Answer:
        """Send a request; bodies other than bytes as JSON. Header values go out as Latin-1."""
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, data or None, headers or {})
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, names, answer.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        """POST with the key as Bearer unless `Authorization` is given."""
        return self.send("POST", path, body, {"Authorization": f"Bearer {self.key}"} | headers)

    def take_events(self) -> list[dict[str, Any]]:
        """Return the events since the last call, and forget all records."""
        events = [decode(self.registry, record.value)[1] for record in self.sink.records if record.topic == "events.raw"]
        self.sink.records.clear()
        return events

    def take_letters(self) -> list[tuple[str, str, bytes]]:
        """Return (reason, source, bytes) of the dead letters since the last call, and forget all records."""
        letters = [decode(self.registry, record.value)[1] for record in self.sink.records if record.topic == "events.dead"]
        self.sink.records.clear()
        return [(letter["reason"], letter["source"], open_letter(letter, self.keyring)[1]) for letter in letters]

    def metric(self, name: str, **labels: str) -> float:
        """Return the value of a metric; 0 where it has none."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0
