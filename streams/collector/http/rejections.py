"""The table of rejections: reason, status, message. A test compares it with the README."""

from enum import StrEnum


class RejectionReason(StrEnum):
    """Why a request or an event is refused."""

    UNKNOWN_KEY = "UNKNOWN_KEY"
    INVALID_JSON = "INVALID_JSON"
    TOO_LARGE = "TOO_LARGE"
    TOO_DEEP = "TOO_DEEP"
    TOO_MANY = "TOO_MANY"
    ENCODING = "ENCODING"
    CONTRACT = "CONTRACT"
    RATE = "RATE"
    FULL = "FULL"
    BUSY = "BUSY"
    FAILED = "FAILED"
    ORIGIN = "ORIGIN"
    NOT_FOUND = "NOT_FOUND"


STATUS: dict[RejectionReason, tuple[int, str]] = {
    RejectionReason.UNKNOWN_KEY: (401, "unknown or revoked write key: make one with `headwater keys create`"),
    RejectionReason.INVALID_JSON: (400, "the body must be JSON in UTF-8"),
    RejectionReason.TOO_LARGE: (413, "the body, inflated, may hold 1,000,000 bytes: send smaller batches"),
    RejectionReason.TOO_DEEP: (400, "values may be nested 32 levels deep"),
    RejectionReason.TOO_MANY: (400, "a request may hold 5,000 events"),
    RejectionReason.ENCODING: (400, "the body must be compressed with gzip, deflate or br, or not at all"),
    RejectionReason.CONTRACT: (400, "no event of the request fits the contract"),
    RejectionReason.RATE: (429, "more events a second than the source's limit: send again later"),
    RejectionReason.FULL: (503, "no room to keep it safe: send again later"),
    RejectionReason.BUSY: (503, "more requests than this process can hold at once: send again later"),
    RejectionReason.FAILED: (503, "the collector failed on this request: send again later"),
    RejectionReason.ORIGIN: (403, "this origin may not send: list it with --cors-origin or HEADWATER_CORS_ORIGINS"),
    RejectionReason.NOT_FOUND: (404, "no such door: see the collector's README"),
}

RETRY_AFTER_S = {RejectionReason.RATE: 1, RejectionReason.FULL: 5, RejectionReason.BUSY: 1, RejectionReason.FAILED: 30}

KEPT = frozenset(
    {
        RejectionReason.INVALID_JSON,
        RejectionReason.TOO_LARGE,
        RejectionReason.TOO_DEEP,
        RejectionReason.TOO_MANY,
        RejectionReason.ENCODING,
        RejectionReason.CONTRACT,
        RejectionReason.FAILED,
    }
)
"""Rejections of a known source that leave a dead letter: their senders do not send the bytes again, or in vain."""


class RequestRejected(Exception):
    """A whole request is refused."""

    def __init__(self, reason: RejectionReason, detail: str = "") -> None:
        super().__init__(detail or STATUS[reason][1])
        self.reason = reason
        self.status = STATUS[reason][0]
