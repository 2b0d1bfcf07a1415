"""What is refused, and how that is answered: one table. The README shows it, and a test keeps the two equal."""

from enum import StrEnum


class Reason(StrEnum):
    """Why a request or an event was refused."""

    UNKNOWN_KEY = "UNKNOWN_KEY"
    INVALID_JSON = "INVALID_JSON"
    TOO_LARGE = "TOO_LARGE"
    TOO_DEEP = "TOO_DEEP"
    TOO_MANY = "TOO_MANY"
    ENCODING = "ENCODING"
    CONTRACT = "CONTRACT"
    RATE = "RATE"
    FULL = "FULL"
    NOT_FOUND = "NOT_FOUND"


STATUS: dict[Reason, tuple[int, str]] = {
    Reason.UNKNOWN_KEY: (401, "unknown or revoked write key: make one with `headwater keys create`"),
    Reason.INVALID_JSON: (400, "the body must be JSON in UTF-8"),
    Reason.TOO_LARGE: (413, "the body, inflated, may hold 1,000,000 bytes: send smaller batches"),
    Reason.TOO_DEEP: (400, "values may be nested 32 levels deep"),
    Reason.TOO_MANY: (400, "a request may hold 500 events"),
    Reason.ENCODING: (400, "Content-Encoding must be gzip or deflate, and the body must be what it says"),
    Reason.CONTRACT: (400, "no event of the request fits the contract"),
    Reason.RATE: (429, "more events a second than the source's limit: send again later"),
    Reason.FULL: (503, "no room to keep it safe: send again later"),
    Reason.NOT_FOUND: (404, "no such door: see the collector's README"),
}

RETRY_AFTER_S = {Reason.RATE: 1, Reason.FULL: 5}


class Refused(Exception):
    """A whole request is refused."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(detail or STATUS[reason][1])
        self.reason = reason
        self.status = STATUS[reason][0]
