"""Metadata of the loader's offset commits: topic id, the offsets that are about to be inserted, and why they wait."""

import json
import re
from typing import NamedTuple

from consumers.warehouse.topic_partition import TopicPartition

FORM = re.compile(r"v1:(\d{1,18})-(\d{1,18})")
"""Metadata of older versions, without topic ids."""
MAX_REASON = 300
"""Characters."""


class Intent(NamedTuple):
    """Offsets first..last (both included) of one partition."""

    first: int
    last: int


class CommitMetadata(NamedTuple):
    """Metadata of one commit. `topic_id` is empty where the commit carries none."""

    topic_id: str = ""
    intent: Intent | None = None
    waiting: str = ""
    """Why the intent is not carried out; shown by `status` and by the lag monitor."""

    @property
    def text(self) -> str:
        """The committed text: a JSON object of at most a few hundred bytes."""
        fields: dict[str, object] = {"topic_id": self.topic_id}
        if self.intent is not None:
            fields["intent"] = list(self.intent)
        if self.waiting:
            fields["waiting"] = self.waiting[:MAX_REASON]
        return json.dumps(fields)


def read_metadata(committed: int, text: str | None) -> CommitMetadata:
    """Parse the metadata of a commit. An intent that does not begin at the committed offset is ignored, as is unknown text."""
    if old := FORM.fullmatch(text or ""):
        return CommitMetadata(intent=_intent(committed, int(old.group(1)), int(old.group(2))))
    try:
        fields = json.loads(text or "{}")
        topic_id, waiting = str(fields.get("topic_id", "")), str(fields.get("waiting", ""))
        first, last = fields.get("intent", (0, -1))
    except (ValueError, AttributeError, TypeError):
        return CommitMetadata()
    if type(first) is not int or type(last) is not int:
        return CommitMetadata(topic_id, None, waiting)
    return CommitMetadata(topic_id, _intent(committed, first, last), waiting)


def _intent(committed: int, first: int, last: int) -> Intent | None:
    return Intent(first, last) if first == committed <= last else None


def token(source: TopicPartition, intent: Intent, schema_id: int) -> str:
    """De-duplication token of the rows of one contract in one intent."""
    return f"{source.topic}:{source.topic_id}:{source.partition}:{intent.first}-{intent.last}:{schema_id}"
