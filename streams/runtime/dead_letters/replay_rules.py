"""Decides which dead letters a replay can send."""

from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from infra.clients.topic_ids import topic_ids
from infra.settings import Settings
from streams.runtime.dead_letters.scan import Letter

if TYPE_CHECKING:
    from streams.runtime.dead_letters.replay import LetterSet


class ReplayOutcome(StrEnum):
    """What became of a letter in a replay."""

    SENT = "sent"
    WOULD_SEND = "would_send"
    SENT_BEFORE = "sent_before"
    FROM_A_DOOR = "from_a_door"
    TOPIC_MISSING = "topic_missing"
    KEY_DESTROYED = "key_destroyed"


OUTCOME_TEXTS = {
    ReplayOutcome.SENT: "sent to {topic}",
    ReplayOutcome.WOULD_SEND: "would be sent to {topic}",
    ReplayOutcome.SENT_BEFORE: "sent before to {topic}, not again: --again sends them too",
    ReplayOutcome.FROM_A_DOOR: "from a door: cannot be sent again",
    ReplayOutcome.TOPIC_MISSING: "about {topic}, which is not there: run `headwater topics apply`",
    ReplayOutcome.KEY_DESTROYED: "key destroyed with its retention ({topic})",
}
OutcomeCounts = Counter[tuple[ReplayOutcome, str]]
"""Letters by outcome and topic of their record; the topic is empty for letters of a door."""


class LetterVerdict(NamedTuple):
    """The decision on one letter: the record to send, or why it cannot be sent."""

    outcome: ReplayOutcome
    key: bytes | None = None
    value: bytes = b""


class ReplayRules:
    """Decides which letters can be sent."""

    def __init__(self, settings: Settings, replayed: "LetterSet", *, again: bool) -> None:
        from infra.payload_keyring import PayloadKeyring

        self._settings = settings
        self._replayed = replayed
        self._again = again
        self._keyring = PayloadKeyring(settings.keyring_dir, settings.master)
        self._topics: dict[str, bool] = {}
        """Topic -> whether it exists."""

    def decide(self, letter: Letter) -> LetterVerdict:
        """Return the decision on one letter. Retryable."""
        from infra.payload_keyring import KeyDestroyed
        from streams.runtime.dead_letters.dead_letter import open_letter
        from streams.runtime.dead_letters.replay import letter_position

        topic = letter["source_topic"]
        if not topic:
            return LetterVerdict(ReplayOutcome.FROM_A_DOOR)
        if letter_position(letter) in self._replayed and not self._again:
            return LetterVerdict(ReplayOutcome.SENT_BEFORE)
        if not self._topic_exists(topic):
            return LetterVerdict(ReplayOutcome.TOPIC_MISSING)
        try:
            return LetterVerdict(ReplayOutcome.WOULD_SEND, *open_letter(letter, self._keyring))
        except KeyDestroyed:
            return LetterVerdict(ReplayOutcome.KEY_DESTROYED)

    def _topic_exists(self, topic: str) -> bool:
        if topic not in self._topics:
            self._topics[topic] = topic in topic_ids(self._settings, [topic])
        return self._topics[topic]
