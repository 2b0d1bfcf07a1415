"""Checks that topics are still those whose offsets the loader reads.

`TopicWatch` asks for all its topics at once and then every few seconds. The loader learns topics as they are assigned, and must
ask for the topics of a batch after its records came and before its intent is committed.
"""

import time
from collections.abc import Collection

from confluent_kafka.admin import AdminClient

from infra.clients.kafka import admin
from infra.clients.topic_ids import describe_ids, replaced_topics
from infra.errors import Retryable
from infra.settings import Settings
from infra.telemetry.logs import get_logger

CHECK_S = 10.0
"""How often all topics are checked."""
ANSWER_S = 2.0
"""Timeout of a check."""


class TopicReplaced(Exception):
    """A topic was deleted and created again while it was read, so its offsets mean other records. A restart resolves it."""


class TopicCheck:
    """The ids of topics as they were when they were first assigned, for as long as the process runs."""

    def __init__(self, settings: Settings) -> None:
        self._admin: AdminClient = admin(settings)
        self.ids: dict[str, str] = {}
        """Topic -> its id; topics that do not exist are left out."""
        self._checked = 0.0

    def learn(self, topics: Collection[str]) -> None:
        """Remember the ids of assigned topics. Retryable; TopicReplaced where one has another id than before.

        The client remembers the former topic too, and would wait for its records for ever.
        """
        self._update(describe_ids(self._admin, topics))
        self._checked = time.monotonic()

    def confirm(self, topics: Collection[str]) -> bool:
        """Whether Kafka confirms that these topics are still the same; False where it does not answer. TopicReplaced."""
        try:
            ids = describe_ids(self._admin, topics, ANSWER_S)
        except Retryable as error:
            get_logger().warning("kafka", error=str(error))
            return False
        self._update(ids)
        return True

    def confirm_all(self) -> None:
        """Check all topics now. TopicReplaced."""
        self._checked = time.monotonic()
        self.confirm(self.ids)

    def confirm_due(self) -> None:
        """Check all topics every `CHECK_S`: a replaced topic may bring no records that would be checked. TopicReplaced."""
        if time.monotonic() - self._checked >= CHECK_S:
            self.confirm_all()

    def _update(self, ids: dict[str, str]) -> None:
        if replaced := replaced_topics(self.ids, ids):
            raise TopicReplaced(f"made anew while it was read: {', '.join(replaced)}")
        self.ids |= ids
