"""A partition together with the id of its topic: offsets are only meaningful within one topic id."""

import re
from typing import NamedTuple

_TOPIC_ID = re.compile(r"[A-Za-z0-9_.:/+=-]{1,400}")


class TopicPartition(NamedTuple):
    """`topic_id` is Kafka's id of the topic; a topic that is deleted and created again has another."""

    topic: str
    partition: int
    topic_id: str

    @property
    def condition(self) -> str:
        """SQL condition on the rows loaded from this partition. ValueError for a malformed topic id."""
        if not _TOPIC_ID.fullmatch(self.topic_id):
            raise ValueError(f"not a topic id: {self.topic_id!r}")
        return f"_topic_id = '{self.topic_id}' AND _partition = {self.partition}"

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}"
