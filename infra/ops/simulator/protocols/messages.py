"""What is sent and answered: values of the moment, requests, decisions. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SendStamp:
    """Values that are known only when a request is sent."""

    now_ms: int
    write_key: str
    region_header: str
    """Header that the collector trusts for the region; empty = none."""
    token: str = ""
    """Token of the decision that its events may refer to."""


@dataclass(frozen=True, slots=True)
class Post:
    """One HTTP POST."""

    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """The fields of a decision that a widget needs."""

    decision_id: str = ""
    arm: str = ""
    group: str = ""
    token: str = ""

    @classmethod
    def read(cls, body: Json) -> "Answer":
        """Build from the decision API's JSON."""
        return cls(*(str(body.get(name) or "") for name in ("decision_id", "arm", "group", "token")))
