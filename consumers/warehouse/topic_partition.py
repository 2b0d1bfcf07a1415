"""A partition of one creation of a topic. Offsets mean something only together with the topic's id."""

import re
from typing import NamedTuple

_TOPIC_ID = re.compile(r"[A-Za-z0-9_.:/+=-]{1,400}")


class TopicPartition(NamedTuple):
    """`topic_id` is Kafka's id of this creation of the topic: one that was deleted and made anew has another."""

    topic: str
    partition: int
    topic_id: str

    @property
    def condition(self) -> str:
        """SQL condition on the rows that were loaded from here. ValueError for a topic id that is none."""
        if not _TOPIC_ID.fullmatch(self.topic_id):
            raise ValueError(f"not a topic id: {self.topic_id!r}")
        return f"_topic_id = '{self.topic_id}' AND _partition = {self.partition}"

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}"
