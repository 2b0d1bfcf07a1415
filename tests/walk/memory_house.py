"""The house in memory: the collector's doors and all three stages over lists, with one ordered log of effects."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiohttp.test_utils import TestClient, TestServer

from infra.payload_keyring import PayloadKeyring
from infra.secrets import Secret
from infra.settings import PACKAGED_CONTRACTS
from infra.telemetry.metrics import Metrics
from schemas.codec import decode
from schemas.registry import Registry
from streams.bandit.snapshots.publisher import Publisher
from streams.bandit.snapshots.store import MemorySnapshotStore
from streams.bandit.stage import BanditStage
from streams.collector.delivery.spool import SpoolRecord
from streams.collector.http.options import CollectorOptions
from streams.collector.http.server import CollectorApi
from streams.collector.intake import Intake
from streams.collector.signals.choice_rules import ChoiceRules
from streams.collector.signals.policy_source import PolicySource
from streams.collector.write_keys import WriteKeyStore, create_key
from streams.consent.ledger.store import MemoryStateStore
from streams.consent.policy import PACKAGED, load_policy
from streams.consent.stage import ConsentDependencies, ConsentStage
from streams.identity.graph.store import MemoryGraphStore
from streams.identity.nodes import NodeKeys, alias
from streams.identity.stage import IdentityDependencies, IdentityStage
from streams.runtime.dead_letters.dead_letter import DeadLetterCause, DeadLetters, RecordPosition
from streams.runtime.stage import Batch, Outcome

SECRET = Secret("for tests only, forty characters long...")
TOKEN_KEY = b"k" * 32

AnyStage = ConsentStage | IdentityStage | BanditStage
KeyValue = tuple[bytes | None, bytes | None]


class MemoryHouse:
    """Topics are lists. `effects` says in order what became visible: records on topics, answers, commits, hooks."""

    def __init__(self, folder: Path) -> None:
        self.registry = Registry(PACKAGED_CONTRACTS)
        self.topics: dict[str, list[KeyValue]] = defaultdict(list)
        self.effects: list[str] = []
        self._positions: dict[tuple[str, str], int] = {}
        self.keyring = PayloadKeyring(folder / "keyring", SECRET)
        self._write_keys = folder / "write-keys.json"
        self._key = create_key(self._write_keys, "web-de", site="shop.example")
        self._metrics = Metrics()
        node_keys = NodeKeys.derive(SECRET)
        states = MemoryStateStore()
        consent = ConsentDependencies(b"k" * 32, states, self._metrics, lambda: None)
        publisher = Publisher(self.registry, MemorySnapshotStore(), self._metrics)
        identity = IdentityDependencies(alias(SECRET))
        self.stages: tuple[AnyStage, ...] = (
            ConsentStage(self.registry, load_policy(PACKAGED), consent),
            IdentityStage(self.registry, MemoryGraphStore(), self._metrics, identity),
            BanditStage(self.registry, TOKEN_KEY, publisher, self._metrics),
        )
        keys = WriteKeyStore(self._write_keys)
        intake = Intake(self.registry, self.keyring, node_keys, self._metrics, ChoiceRules(PolicySource(None), keys))
        self._api = CollectorApi(intake, self, keys, self._metrics, CollectorOptions())  # type: ignore[arg-type] # a sink in memory

    # -- the collector's sink

    has_room = True

    async def send(self, records: Sequence[SpoolRecord]) -> None:
        """Append to the topics."""
        for record in records:
            self._append(record.topic, record.key, record.value)

    # -- what tests do

    def post(self, path: str, *bodies: Any) -> list[int]:
        """Post bodies one after the other; their statuses."""
        return asyncio.run(self._post(path, bodies))

    async def _post(self, path: str, bodies: Sequence[Any]) -> list[int]:
        statuses = []
        async with TestClient(TestServer(self._api.app())) as client:
            for body in bodies:
                response = await client.post(path, json=body, headers={"Authorization": f"Bearer {self._key}"})
                self.effects.append(f"answer {response.status}")
                statuses.append(response.status)
        return statuses

    def run(self, now: float) -> None:
        """Let every stage work until nothing is new, as their workers would: outputs and offsets together, then hooks."""
        while any(self._step(stage, topic, now) for stage in self.stages for topic in stage.inputs):
            pass

    def records(self, topic: str) -> list[dict[str, Any]]:
        """The topic's records, decoded; tombstones left out."""
        return [decode(self.registry, value)[1] for _, value in self.topics[topic] if value is not None]

    # -- the stages' workers

    def _step(self, stage: AnyStage, topic: str, now: float) -> bool:
        position = self._positions.get((stage.name, topic), 0)
        waiting = self.topics[topic][position:]
        if not waiting:
            return False
        keys, values = [key for key, _ in waiting], [value for _, value in waiting]
        batch = Batch(topic, 0, keys, values, range(position, position + len(waiting)))
        self._commit(stage, batch, stage.handle(batch, now), now)
        return True

    def _commit(self, stage: AnyStage, batch: Batch, outcome: Outcome, now: float) -> None:
        for name, outputs in outcome.out.items():
            for key, value, _ in outputs:
                self._append(name, key, value)
        letters = DeadLetters(self.registry, self.keyring, stage.name, self._metrics)
        for dead in outcome.dead:
            cause = DeadLetterCause(dead.reason, dead.detail, RecordPosition(batch.topic, 0, batch.offsets[dead.at]))
            key, value, _ = letters.build(cause, batch.keys[dead.at], batch.values[dead.at], now)
            self._append("events.dead", key, value)
        self._positions[stage.name, batch.topic] = batch.offsets[-1] + 1
        self.effects.append(f"commit {stage.name} {batch.topic}")
        for hook in outcome.after_commit:
            hook()
            self.effects.append(f"hook {stage.name}")
        for listener in self.stages:
            for name in set(outcome.out) & set(listener.broadcast):
                listener.on_broadcast(name, [(key, value) for key, value, _ in outcome.out[name]])

    def _append(self, topic: str, key: bytes | None, value: bytes | None) -> None:
        self.topics[topic].append((key, value))
        self.effects.append(topic)
