"""The OpenAPI document of the collector, from its table of doors, its table of rejections and the models below. Pure."""

import inspect
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from infra.http.openapi import JSON, ApiOperation, ResponseBody, build_document, list_of, refer_to
from streams.collector.http.rejections import STATUS, RejectionReason
from streams.collector.protocols import choices, own
from streams.collector.protocols.doors import DOORS, AnswerFormat, ChoiceDoor, DiscardDoor, Door, EventDoor

Json = Any
"""Any JSON value: what does not fit an optional field is noted in the event's `problems` and kept among its properties."""


class OwnEvent(BaseModel):
    """An event of own JSON. Further fields are kept as properties."""

    model_config = ConfigDict(extra="allow")

    event_name: str = Field(min_length=1, max_length=128)
    event_id: Json = Field(None, description="Text of 1 to 128 characters, equal in retries; derived or random without")
    event_ts: Json = Field(None, description="When it happened: milliseconds or seconds since 1970, or ISO 8601")
    sent_ts: Json = Field(None, description="When it was sent, by the same clock: corrects a clock that is wrong")
    user_id: Json = Field(None, description="Text; becomes a pseudonym")
    device_id: Json = Field(None, description="Text; becomes a pseudonym")
    client_id: Json = Field(None, description="Text; becomes a pseudonym")
    user_data: Json = Field(None, description="Object with `email` and `phone`, which become pseudonyms")
    user_properties: Json = Field(None, description="Object: properties of the person")
    consent: Json = Field(None, description="Consent signals: an object, or a text that is a consent string")
    page_location: Json = Field(None, description="Address of the page")
    page_referrer: Json = Field(None, description="Address of the page before")
    page_title: Json = Field(None, description="Text")
    items: Json = Field(None, description="Products: an array of at most 200 objects")
    order_id: Json = Field(None, description="Text")
    value: Json = Field(None, description="Amount: 19.9, or a text such as `19,90 €`")
    currency: Json = Field(None, description="Code such as EUR")
    session_id: Json = Field(None, description="Text")
    decision_token: Json = Field(None, description="Token of a decision, as its answer has it")
    properties: Json = Field(None, description="Object: further properties")


class OwnEventBatch(BaseModel):
    """Events of one request; consent signals beside `events` apply to each."""

    model_config = ConfigDict(extra="allow")

    events: list[OwnEvent]


class ConsentChoice(BaseModel):
    """A choice or a withdrawal of one person, who is named by at least one identifier."""

    model_config = ConfigDict(extra="allow")

    kind: Literal["choice", "withdrawal"] = "choice"
    consent: Json = Field(None, description="Consent signals, as with an event; required for a choice")
    purposes: list[str] = Field([], description=f"Withdrawn purposes, of {', '.join(choices.PURPOSES)}; none = all")
    user_id: str = ""
    device_id: str = ""
    client_id: str = ""
    chosen_ts: Json = Field(None, description="When it was chosen: milliseconds since 1970, or ISO 8601; now without")
    site: str = Field("", description="Host of the pages that it is about; the key's site without")


class ConsentChoiceBatch(BaseModel):
    """Choices of one request."""

    choices: list[ConsentChoice]


class RefusedItem(BaseModel):
    """An item that is a dead letter."""

    index: int
    code: RejectionReason
    message: str


class ItemWarning(BaseModel):
    """An item of which something was read differently from how it was sent."""

    index: int
    message: str


class IntakeSummary(BaseModel):
    """What became of the items of a request, at least one of which was accepted (or there was none)."""

    success: Literal[True]
    accepted: int = Field(ge=0)
    refused: list[RefusedItem]
    holds_for: list[str] = Field([], description="Sites to which the accepted choices apply")
    warnings: list[ItemWarning] = []
    mended: list[str] = Field([], description="What was read differently from how the body had it")


class RejectionBody(BaseModel):
    """Why a request was refused; `refused` lists its items where each of them was."""

    code: RejectionReason
    message: str
    refused: list[RefusedItem] = []


class ReadinessState(BaseModel):
    """Whether the collector takes events."""

    ready: bool
    seconds_since_ack: float = Field(description="Since Kafka's last acknowledgement")


MODELS = (
    OwnEvent, OwnEventBatch, ConsentChoice, ConsentChoiceBatch, RefusedItem, ItemWarning, IntakeSummary, RejectionBody,
    ReadinessState,
)  # fmt: skip
SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "The write key"},
    "basic": {"type": "http", "scheme": "basic", "description": "The write key as user name, without a password"},
    "writeKey": {"type": "apiKey", "in": "query", "name": "writeKey", "description": "For pages that can set no header"},
}
BODIES: Mapping[Any, Mapping[str, Any]] = {
    own.parse_item: {"anyOf": [refer_to(OwnEvent), list_of(OwnEvent), refer_to(OwnEventBatch)]},
    choices.parse_item: {"anyOf": [refer_to(ConsentChoice), list_of(ConsentChoice), refer_to(ConsentChoiceBatch)]},
}
"""Parsers of the collector's own protocols -> schema of a body. The others are described by their owners."""
TEXT = "text/plain"
KEPT_ANYWAY = "accepted; an item that breaks its contract is a dead letter"
ANSWERS = {
    AnswerFormat.SUMMARY: ResponseBody("accepted, item by item", JSON, refer_to(IntakeSummary)),
    AnswerFormat.OK_TEXT: ResponseBody(KEPT_ANYWAY, TEXT, {"type": "string"}),
    AnswerFormat.PIXEL: ResponseBody("accepted: an image of one pixel", "image/gif", {"type": "string"}),
    AnswerFormat.EMPTY: ResponseBody(KEPT_ANYWAY),
    AnswerFormat.NO_CONTENT: ResponseBody(KEPT_ANYWAY),
    AnswerFormat.VALIDATION: ResponseBody("the problems of each item; nothing is kept", JSON, {"type": "object"}),
}
WITHOUT_DOOR = frozenset({RejectionReason.NOT_FOUND})
"""Rejections that no door gives."""


def build_api_document(doors: Iterable[Door] = DOORS, base_path: str = "") -> dict[str, Any]:
    """Return the document."""
    info = {
        "title": "Headwater collector",
        "version": version("headwater"),
        "description": "Takes events and consent choices. Only after 200 is an event kept; 429 and 503 say when to send again.",
    }
    operations = [*map(_describe_door, doors), *_operations()]
    return build_document(info, operations, MODELS, SECURITY, base_path)


def _describe_door(door: Door) -> ApiOperation:
    if isinstance(door, DiscardDoor):
        answer = {200: ResponseBody("counted, not kept", JSON, {"type": "object"})}
        return ApiOperation(door.method, door.path, "Metrics of SDKs, which are not kept", answer | _rejections(), "SDKs")
    answer_format = door.answer if isinstance(door, EventDoor) else AnswerFormat.SUMMARY
    answer = {204 if answer_format is AnswerFormat.NO_CONTENT else 200: ANSWERS[answer_format]}
    module = inspect.getmodule(door.parse_item)
    title = (inspect.getdoc(module) or "").split("\n")[0].removesuffix(" Pure.")
    body = BODIES.get(door.parse_item, {"type": ["object", "array"]}) if door.method == "POST" else None
    tag = "own" if door.parse_item in BODIES else "compatible"
    is_keyed = isinstance(door, ChoiceDoor) or door.key_location.find_in_item is None
    return ApiOperation(door.method, door.path, title, answer | _rejections(), tag, body, tuple(SECURITY) if is_keyed else ())


def _rejections() -> dict[int, ResponseBody]:
    """Return the answers to rejected requests: each status with the reasons that it has."""
    by_status: dict[int, list[str]] = {}
    for reason, (status, message) in STATUS.items():
        if reason not in WITHOUT_DOOR:
            by_status.setdefault(status, []).append(f"{reason}: {message}")
    return {status: ResponseBody("; ".join(messages), JSON, refer_to(RejectionBody)) for status, messages in by_status.items()}


def _operations() -> list[ApiOperation]:
    readiness = {
        200: ResponseBody("it takes events", JSON, refer_to(ReadinessState)),
        503: ResponseBody("it takes none: neither Kafka nor the spool has room", JSON, refer_to(ReadinessState)),
    }
    live, metrics = (ResponseBody(title, TEXT, {"type": "string"}) for title in ("ok", "in the text format of Prometheus"))
    document = ResponseBody("OpenAPI 3.1", JSON, {"type": "object"})
    described: list[tuple[str, str, Mapping[int, ResponseBody]]] = [
        ("/health/live", "The process runs", {200: live}),
        ("/health/ready", "The collector takes events", readiness),
        ("/metrics", "Metrics of Prometheus", {200: metrics}),
        ("/openapi.json", "This document", {200: document}),
    ]
    return [ApiOperation("GET", path, summary, answers, "operations") for path, summary, answers in described]


__all__ = ["build_api_document"]
