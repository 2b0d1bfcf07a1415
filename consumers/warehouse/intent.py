"""What is about to be inserted, written into the metadata of the offset commit before it is."""

import re
from typing import NamedTuple

FORM = re.compile(r"v1:(\d{1,18})-(\d{1,18})")


class Intent(NamedTuple):
    """Offsets first..last (both included) of one partition."""

    first: int
    last: int

    @property
    def metadata(self) -> str:
        """For the commit of `first`."""
        return f"v1:{self.first}-{self.last}"


def read_intent(committed: int, metadata: str | None) -> Intent | None:
    """The intent in a commit's metadata; None when there is none, or one that does not belong to the committed offset."""
    found = FORM.fullmatch(metadata or "")
    if found is None:
        return None
    intent = Intent(int(found.group(1)), int(found.group(2)))
    return intent if intent.first == committed <= intent.last else None


def token(topic: str, partition: int, intent: Intent, schema_id: int) -> str:
    """The de-duplication token of the rows of one contract in one intent."""
    return f"{topic}:{partition}:{intent.first}-{intent.last}:{schema_id}"
