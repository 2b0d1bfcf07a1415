"""Handlers of the doors: from a request to an answer, by way of the intake and the sink."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from aiohttp import web

from infra.http.answers import json_answer
from infra.http.rate_limit import RateLimit
from infra.telemetry.logs import get_logger
from infra.telemetry.metrics import Metrics
from streams.collector.delivery.sink import MAX_EVENT, Sink
from streams.collector.event import InvalidField, InvalidItem, Item, ProtocolEvent
from streams.collector.fields.repeated_keys import RepeatedKeys
from streams.collector.fields.tolerant_json import ParsedBody
from streams.collector.http.answers import answer_events, list_problems, summarise
from streams.collector.http.id_cookie import EventBatch, VisitorCookie
from streams.collector.http.options import CollectorOptions
from streams.collector.http.payload import parse_json, query_fields
from streams.collector.http.rejections import RejectionReason, RequestRejected
from streams.collector.http.routes import Route, RouteHandler
from streams.collector.http.sender_request import SenderRequest
from streams.collector.intake import DEAD, Intake, IntakeResult, ItemParser
from streams.collector.normalise import RequestContext
from streams.collector.protocols.doors import AnswerFormat, ChoiceDoor, Door, EventDoor
from streams.collector.write_keys import WriteKey, WriteKeyStore

SLICE = 500
"""Items that are processed and delivered at once."""
MAX_ITEMS = 5_000
"""Items of one request."""
NETWORK_IDS = frozenset({"tnuid", "nuid"})
"""Snowplow's fields for the network user id."""
T = TypeVar("T")
UNKNOWN_APP_ID = "aid is no active write key: make one with `headwater keys create`"


class DoorHandlers:
    """The handlers of one process."""

    def __init__(self, intake: Intake, sink: Sink, keys: WriteKeyStore, metrics: Metrics, options: CollectorOptions) -> None:
        self._intake = intake
        self._sink = sink
        self._keys = keys
        self._metrics = metrics
        self._options = options
        self._limits: dict[float, RateLimit] = {}

    def routes(self, doors: Iterable[Door]) -> list[Route]:
        """Return the route of each door."""
        return [Route(door.method, door.path, self._handler(door)) for door in doors]

    def _handler(self, door: Door) -> RouteHandler:
        if isinstance(door, EventDoor):
            return lambda sender: self._take_events(sender, door)
        if isinstance(door, ChoiceDoor):
            return lambda sender: self._take_choices(sender, door)
        return _discard

    async def keep_rejected(self, sender: SenderRequest, reason: RejectionReason, problem: str) -> bool:
        """Keep the payload of a rejected request as a dead letter; False where it has none or its source is unknown."""
        key = sender.key or self._find_key(sender.keys_in_bytes())
        if key is None or not sender.sent_bytes:
            return False
        context = sender.context(key, self._options)
        await self._deliver(self._intake.reject_body(sender.sent_bytes, problem, context, reason))
        return True

    async def _take_events(self, sender: SenderRequest, door: EventDoor) -> web.StreamResponse:
        location = door.key_location
        sender.key = self._find_key(location.find_in_head(sender.head))
        if sender.key is None and location.find_in_payload is None:
            raise RequestRejected(RejectionReason.UNKNOWN_KEY)
        parsed = await self._payload(sender, door)
        try:
            candidates = [location.find_in_payload(parsed.payload)] if location.find_in_payload else []
            items = door.extract_items(parsed.payload)
        except InvalidField as error:
            raise RequestRejected(RejectionReason.CONTRACT, str(error)) from None
        if sender.key is None and location.find_in_item:
            candidates += map(location.find_in_item, items)
        key = sender.key = sender.key or self._find_key(candidates)
        if key is None:
            raise RequestRejected(RejectionReason.UNKNOWN_KEY)
        if door.answer is AnswerFormat.VALIDATION:
            return list_problems(map(_guard(door.parse_item), items))
        if sender.is_anonymous:
            items = [_without_network_ids(item) for item in items]
        groups = self._group_by_key(door, items, key)
        for owner, _, owned in groups:
            self._admit(owner, len(owned))
        batches = [
            EventBatch(
                owned,
                _without_address(_guard(parse)) if sender.is_anonymous else _guard(parse),
                sender.context(owner, self._options, parsed.problems),
            )
            for owner, parse, owned in groups
        ]
        cookie = self._open_cookie(sender, key)
        result = await self._accept_batches(cookie.identify(batches) if cookie else batches)
        return self._write_cookie(cookie, answer_events(door.answer, result, parsed.problems))

    def _open_cookie(self, sender: SenderRequest, key: WriteKey) -> VisitorCookie | None:
        """Return the id cookie of a request; None where it has none."""
        cookies = self._options.id_cookies
        return None if cookies is None or sender.is_anonymous else cookies.open(sender.request, key.kind)

    def _write_cookie(self, cookie: VisitorCookie | None, response: web.Response) -> web.Response:
        if cookie is not None and (outcome := cookie.write(response)):
            self._metrics.count("headwater_id_cookies_total", outcome=outcome)
        return response

    async def _payload(self, sender: SenderRequest, door: EventDoor) -> ParsedBody:
        if door.read_request is not None:
            body = b"" if door.method == "GET" else await sender.read()
            return ParsedBody(door.read_request(query_fields(sender.request), body), 1)
        if door.method == "GET":
            return ParsedBody(query_fields(sender.request), 1)
        return parse_json(await sender.read())

    def _group_by_key(self, door: EventDoor, items: list[Any], key: WriteKey) -> list[tuple[WriteKey, ItemParser, list[Any]]]:
        """Return the items by their own write key, at doors where each may have one. `key` has the others."""
        find_in_item = door.key_location.find_in_item
        if find_in_item is None:
            return [(key, door.parse_item, items)]
        groups: dict[str, tuple[WriteKey, ItemParser, list[Any]]] = {}
        for item in items:
            clear = find_in_item(item)
            owner = self._find_key([clear]) if clear else key
            parse: ItemParser = door.parse_item if owner else _refuse_app_id
            groups.setdefault(owner.sha256 if owner else "", (owner or key, parse, []))[2].append(item)
        return list(groups.values())

    async def _take_choices(self, sender: SenderRequest, door: ChoiceDoor) -> web.StreamResponse:
        key = sender.key = self._find_key(door.key_location.find_in_head(sender.head))
        if key is None:
            raise RequestRejected(RejectionReason.UNKNOWN_KEY)
        body = await sender.read()
        parsed, context = parse_json(body), sender.context(key, self._options)
        try:
            items = door.extract_items(parsed.payload)
        except InvalidField as error:
            self._admit(key, 1)
            result = self._intake.reject_body(body, str(error), context)
            await self._deliver(result)
            return summarise(result)
        self._admit(key, len(items))
        single = body if items and items[0] is parsed.payload else b""
        result = IntakeResult()
        for start in range(0, len(items), SLICE):
            part = self._intake.accept_choices(items[start : start + SLICE], _guard(door.parse_item), context, single)
            await self._deliver(part)
            _extend(result, part, start)
        cookie = self._open_cookie(sender, key)
        if cookie is not None:
            cookie.consider_choices(items, door.parse_item, context)
        return self._write_cookie(cookie, summarise(result, parsed.problems))

    async def _accept_batches(self, batches: Iterable[EventBatch]) -> IntakeResult:
        """Accept the items of all batches, a slice at a time."""
        result = IntakeResult()
        for items, parse, context in batches:
            for start in range(0, len(items), SLICE):
                part = self._accept_slice(items[start : start + SLICE], parse, context)
                await self._deliver(part)
                _extend(result, part, start)
        return result

    def _accept_slice(self, items: Sequence[Any], parse: ItemParser, context: RequestContext) -> IntakeResult:
        """Accept items; where the collector fails on one, that one is a dead letter and the others are accepted."""
        try:
            return self._intake.accept_events(items, parse, context)
        except Exception as error:  # a defect of ours costs one item, not its batch
            if len(items) == 1:
                get_logger().error("an event failed", error=type(error).__name__)
                failure = _describe_failure(error)
                return self._intake.accept_events(items, lambda _item: failure, context)
            result = IntakeResult()
            for index, item in enumerate(items):
                part = self._accept_slice([item], parse, context)
                result.records += part.records
                _extend(result, part, index)
            return result

    def _find_key(self, candidates: Iterable[object]) -> WriteKey | None:
        """Return the first active key."""
        for clear in candidates:
            # Half a surrogate pair, of a JSON escape, has no hash.
            if isinstance(clear, str) and clear and clear.isascii() and (key := self._keys.find(clear)):
                return key
        return None

    def _admit(self, key: WriteKey, items: int) -> None:
        if items > MAX_ITEMS:
            raise RequestRejected(RejectionReason.TOO_MANY)
        limit = self._limits.setdefault(key.events_per_s, RateLimit(key.events_per_s, max(2 * key.events_per_s, SLICE)))
        if not limit.allow(key.source, time.monotonic(), items):
            self._metrics.count("headwater_rate_limited_total", source=key.source)
            raise RequestRejected(RejectionReason.RATE)

    async def _deliver(self, result: IntakeResult) -> None:
        if any(len(record.value) > MAX_EVENT and record.topic != DEAD for record in result.records):
            raise RequestRejected(RejectionReason.TOO_LARGE, "an event, with its texts in UTF-8, does not fit into a record")
        if result.records:
            await self._sink.send(result.records)


def _extend(result: IntakeResult, part: IntakeResult, start: int) -> None:
    """Add what became of a slice, whose first item has this index."""
    result.accepted += part.accepted
    result.refused += [(start + index, problem) for index, problem in part.refused]
    result.warnings += [(start + index, message) for index, message in part.warnings]
    result.sites |= part.sites


def _guard(parse: Callable[[Any], T]) -> Callable[[Any], T | InvalidItem]:
    """Return a parser that makes an item on which the protocol's parser fails a dead letter."""

    def parse_guarded(item: Any) -> T | InvalidItem:
        try:
            return parse(item)
        except Exception as error:  # a defect of ours costs this item, not its batch
            get_logger().error("an event failed", error=type(error).__name__)
            return _describe_failure(error)

    return parse_guarded


def _without_address(parse: ItemParser) -> ItemParser:
    """Return a parser whose events have no address, whichever field their protocol has for it."""

    def parse_anonymously(item: Any) -> Item:
        event = parse(item)
        return replace(event, ip="") if isinstance(event, ProtocolEvent) else event

    return parse_anonymously


def _describe_failure(error: Exception) -> InvalidItem:
    return InvalidItem(f"the collector failed on it: {type(error).__name__}")


def _refuse_app_id(_item: Any) -> InvalidItem:
    return InvalidItem(UNKNOWN_APP_ID)


def _without_network_ids(item: Any) -> Any:
    """Return an item without network user id."""
    if not isinstance(item, dict):
        return item
    fields = {name: value for name, value in item.items() if name not in NETWORK_IDS}
    if isinstance(item, RepeatedKeys):
        return RepeatedKeys(fields.items(), [pair for pair in item.earlier if pair[0] not in NETWORK_IDS])
    return fields


async def _discard(sender: SenderRequest) -> web.StreamResponse:
    """Read a payload and answer 200: its sender would repeat it otherwise."""
    await sender.read()
    return json_answer({"success": True})


__all__ = ["DoorHandlers"]
