"""The HTTP doors."""

import asyncio
import base64
import binascii
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web
from prometheus_client import generate_latest

from infra.http.rate_limit import RateLimit
from infra.parsing.region import region_of
from infra.telemetry.metrics import Metrics
from streams.collector.delivery.sink import Sink
from streams.collector.delivery.spool import SpoolFull
from streams.collector.event import InvalidField
from streams.collector.fields.repeated_keys import MAX_LEVELS, RepeatedKeys, loads_with_depth
from streams.collector.http.rejections import RETRY_AFTER_S, RejectionReason, RequestRejected
from streams.collector.intake import MAX_PREVIEWS, Intake, IntakePreview, IntakeResult, ItemParser
from streams.collector.normalise import RequestContext
from streams.collector.protocols import choices, ga4, own, segment, snowplow
from streams.collector.write_keys import KeyKind, WriteKey, WriteKeyStore

MAX_BODY = 1_000_000
MAX_EVENTS = 500
BODY_S = 10.0
JSON = "application/json"
PIXEL = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
TP2 = "/com.snowplowanalytics.snowplow/tp2"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class CollectorOptions:
    """What the command was told."""

    region_header: str = ""
    """Header that a trusted proxy sets to the visitor's region; it must drop what a client sends under that name."""
    forwarded: bool = False
    """A trusted proxy sets X-Forwarded-For."""
    origins: frozenset[str] = frozenset()
    micro: bool = False


@dataclass(frozen=True, slots=True)
class RequestItems:
    """Items of one request and how to read them."""

    items: list[Any]
    parse: ItemParser


class HttpApi:
    """The routes of one process."""

    def __init__(self, intake: Intake, sink: Sink, keys: WriteKeyStore, metrics: Metrics, options: CollectorOptions) -> None:
        self._intake = intake
        self._sink = sink
        self._keys = keys
        self._metrics = metrics
        self._options = options
        self._limits: dict[float, RateLimit] = {}
        self._recent: deque[IntakePreview] = deque(maxlen=MAX_PREVIEWS)

    def app(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._around])
        add = app.router.add_route
        add("POST", "/v1/events", self.own)
        add("POST", "/v1/consent", self.consent)
        for call in ("batch", *segment.CALLS):
            add("POST", f"/v1/{call}", self.segment)
        add("POST", TP2, self.tp2)
        add("GET", "/i", self.pixel)
        add("POST", "/mp/collect", self.ga4)
        add("POST", "/debug/mp/collect", self.ga4_debug)
        add("GET", "/health/live", self.live)
        add("GET", "/health/ready", self.ready)
        add("GET", "/metrics", self.metrics)
        if self._options.micro:
            self._intake.on_preview = self._recent.append
            for selection in ("good", "bad", "all", "reset"):
                add("GET", f"/micro/{selection}", self.micro)
        add("OPTIONS", "/{path:.*}", self.preflight)
        return app

    @web.middleware
    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        try:
            response = await handler(request)
        except RequestRejected as error:
            response = self._refusal(error.reason, str(error))
        except SpoolFull:
            response = self._refusal(RejectionReason.FULL)
        except web.HTTPRequestEntityTooLarge:
            response = self._refusal(RejectionReason.TOO_LARGE)
        except web.HTTPException as error:
            response = self._refusal(RejectionReason.NOT_FOUND) if error.status in (404, 405) else error
        door = request.match_info.route.resource.canonical if request.match_info.route.resource else "none"
        self._metrics.observe("headwater_request_seconds", time.perf_counter() - started, door=door)
        self._metrics.count("headwater_requests_total", door=door, status=str(response.status))
        if (origin := request.headers.get("Origin")) in self._options.origins:
            response.headers["Access-Control-Allow-Origin"] = str(origin)
            response.headers["Vary"] = "Origin"
        return response

    def _refusal(self, reason: RejectionReason, message: str = "") -> web.Response:
        error = RequestRejected(reason, message)
        self._metrics.count("headwater_refused_total", door="collector", reason=reason)
        headers = {"Retry-After": str(RETRY_AFTER_S[reason])} if reason in RETRY_AFTER_S else None
        body = orjson.dumps({"code": reason, "message": str(error)})
        return web.Response(body=body, status=error.status, content_type=JSON, headers=headers)

    # -- doors

    async def own(self, request: web.Request) -> web.Response:
        """`POST /v1/events`, `Authorization: Bearer <write key>`."""
        scheme, _, clear = request.headers.get("Authorization", "").partition(" ")
        key = self._key(clear if scheme.lower() == "bearer" else "")
        body = await self._json(request)
        result = await self._take(request, key, RequestItems(_items(own.extract_items, body), own.parse_item))
        return _answer(result)

    async def consent(self, request: web.Request) -> web.Response:
        """`POST /v1/consent`: choices without an event; the same key and answers as `/v1/events`."""
        scheme, _, clear = request.headers.get("Authorization", "").partition(" ")
        key = self._key(clear if scheme.lower() == "bearer" else "")
        raw = await self._bytes(request)
        body = _parsed(raw)
        try:
            items = choices.extract_items(body)
        except InvalidField as error:
            self._admit(key, 1)
            result = self._intake.reject_body(raw, str(error), self._asked(request, key))
        else:
            self._admit(key, len(items))
            alone = raw if items and items[0] is body else b""
            result = self._intake.accept_choices(items, self._asked(request, key), alone)
        if result.records:
            await self._sink.send(result.records)
        return _answer(result)

    async def segment(self, request: web.Request) -> web.Response:
        """The Segment HTTP API; the key as Basic user name, or as `writeKey` in the body."""
        call = request.path.rpartition("/")[2]
        clear = _basic_user(request.headers.get("Authorization", ""))
        key = self._key(clear) if clear else None
        body = await self._json(request)
        if key is None:
            key = self._key(body.get("writeKey") if isinstance(body, dict) else "")
        result = await self._take(
            request, key, RequestItems(_items(lambda payload: segment.extract_items(payload, call), body), segment.parse_item)
        )
        return _answer(result)

    async def tp2(self, request: web.Request) -> web.Response:
        """Snowplow's POST. What breaks the contract is a dead letter and a 200: trackers repeat most refusals for ever."""
        body = await self._json(request)
        items = _items(snowplow.extract_items, body)
        key = self._key(snowplow.find_write_key(items))
        await self._take(request, key, RequestItems(items, snowplow.parse_item))
        return web.Response(text="ok")

    async def pixel(self, request: web.Request) -> web.Response:
        """Snowplow's GET: one event as a query string, a picture as the answer."""
        fields = _query(request)
        key = self._key(fields.get("aid", ""))
        await self._take(request, key, RequestItems([fields], snowplow.parse_item))
        return web.Response(body=PIXEL, content_type="image/gif", headers={"Cache-Control": "no-store"})

    async def ga4(self, request: web.Request) -> web.Response:
        """The Measurement Protocol: says nothing of what breaks its rules; that is what `/debug` is for."""
        key = self._key(request.query.get("api_secret", ""))
        body = await self._json(request)
        await self._take(request, key, RequestItems(_items(ga4.extract_items, body), ga4.parse_item))
        return web.Response(status=200)

    async def ga4_debug(self, request: web.Request) -> web.Response:
        """Says what `/mp/collect` would refuse, and keeps nothing."""
        self._key(request.query.get("api_secret", ""))
        body = await self._json(request)
        parsed = [ga4.parse_item(item) for item in _items(ga4.extract_items, body)]
        messages = [
            {"fieldPath": f"events[{i}]", "description": item.detail}
            for i, item in enumerate(parsed)
            if hasattr(item, "detail")
        ]
        return web.Response(body=orjson.dumps({"validationMessages": messages}), content_type=JSON)

    async def micro(self, request: web.Request) -> web.Response:
        """What came lately, for people who set tags up and tests that assert on them."""
        selection = request.path.rpartition("/")[2]
        if selection == "reset":
            self._recent.clear()
        shown = [
            preview.content
            for preview in self._recent
            if selection in ("all", "reset") or preview.accepted == (selection == "good")
        ]
        return web.Response(body=orjson.dumps(shown, default=str), content_type=JSON)

    async def preflight(self, request: web.Request) -> web.Response:
        """CORS: only origins on the list get an answer that lets them in."""
        if request.headers.get("Origin") not in self._options.origins:
            raise web.HTTPNotFound
        allowed = {"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Allow-Headers": "Authorization, Content-Type"}
        return web.Response(status=204, headers={**allowed, "Access-Control-Max-Age": "600"})

    async def live(self, _request: web.Request) -> web.Response:
        """The process answers."""
        return web.Response(text="ok")

    async def ready(self, _request: web.Request) -> web.Response:
        """There is room to keep events safe, with Kafka or without."""
        ready = self._sink.has_room
        state = {"ready": ready, "seconds_since_ack": round(time.monotonic() - self._sink.last_ack, 1)}
        return web.Response(body=orjson.dumps(state), status=200 if ready else 503, content_type=JSON)

    async def metrics(self, _request: web.Request) -> web.Response:
        """Prometheus."""
        return web.Response(body=generate_latest(self._metrics.registry), content_type="text/plain")

    # -- what all doors do

    def _key(self, clear: object) -> WriteKey:
        key = self._keys.find(clear) if isinstance(clear, str) and clear else None
        if key is None:
            raise RequestRejected(RejectionReason.UNKNOWN_KEY)
        return key

    async def _json(self, request: web.Request) -> Any:
        return _parsed(await self._bytes(request))

    async def _bytes(self, request: web.Request) -> bytes:
        """The body, inflated."""
        try:
            body = await asyncio.wait_for(request.read(), BODY_S)
        except TimeoutError:
            raise RequestRejected(RejectionReason.INVALID_JSON, f"the body did not come within {BODY_S:g} s") from None
        except (web.HTTPException, asyncio.CancelledError, ConnectionError):
            raise
        except Exception:  # aiohttp's word for a body that does not inflate depends on the encoding
            raise RequestRejected(RejectionReason.ENCODING) from None
        if request.headers.get("Content-Encoding", "").lower() not in ("", "identity", "gzip", "deflate"):
            raise RequestRejected(RejectionReason.ENCODING)
        return body

    def _admit(self, key: WriteKey, items: int) -> None:
        if items > MAX_EVENTS:
            raise RequestRejected(RejectionReason.TOO_MANY)
        limit = self._limits.setdefault(key.events_per_s, RateLimit(key.events_per_s, max(2 * key.events_per_s, MAX_EVENTS)))
        if not limit.allow(key.source, time.monotonic(), items):
            raise RequestRejected(RejectionReason.RATE)

    async def _take(self, request: web.Request, key: WriteKey, batch: RequestItems) -> IntakeResult:
        self._admit(key, len(batch.items))
        result = self._intake.accept_events(batch.items, batch.parse, self._asked(request, key))
        if result.records:
            await self._sink.send(result.records)
        return result

    def _asked(self, request: web.Request, key: WriteKey) -> RequestContext:
        headers, options = request.headers, self._options
        forwarded = headers.get("X-Forwarded-For", "").split(",")[0] if options.forwarded else ""
        return RequestContext(
            key.source,
            key.site,
            int(time.time() * 1000),
            _region(headers.get(options.region_header, "") if options.region_header else "", key),
            headers.get("User-Agent", ""),
            forwarded or request.remote or "",
            _objection(headers.getall("Sec-GPC", ())),
        )


def _parsed(body: bytes) -> Any:
    """The JSON of a body, with the keys that stand in it twice."""
    try:
        parsed, depth = loads_with_depth(body)
    except orjson.JSONDecodeError as error:
        position = f" (line {error.lineno}, column {error.colno})" if error.doc else ""
        raise RequestRejected(RejectionReason.INVALID_JSON, f"the body must be JSON in UTF-8{position}") from None
    if depth > MAX_LEVELS:
        raise RequestRejected(RejectionReason.TOO_DEEP)
    return parsed


def _query(request: web.Request) -> dict[str, Any]:
    """The fields of a query string; of a name that stands in it twice the first value counts, and the others stay."""
    fields = dict(request.query)
    if len(fields) == len(request.query):
        return fields
    others = [(name, value) for name in fields for value in request.query.getall(name)[1:]]
    return RepeatedKeys(fields.items(), others)


def _region(header: str, key: WriteKey) -> str | None:
    """The region of a visitor's own request; None for a server's, whose headers tell where the server is."""
    return region_of(header) if key.kind is KeyKind.BROWSER else None


def _objection(headers: Sequence[str]) -> str:
    """What `Sec-GPC` says, as sent: the gate judges it. Empty for what is absent or does not object."""
    objection = ", ".join(value for value in headers if value.strip() not in ("", "0"))
    return objection.encode("ascii", "replace").decode()  # a header's bytes may be no UTF-8


def _items(items_of: Callable[[Any], list[Any]], body: Any) -> list[Any]:
    try:
        return items_of(body)
    except InvalidField as error:
        raise RequestRejected(RejectionReason.CONTRACT, str(error)) from None


def _answer(result: IntakeResult) -> web.Response:
    """200 where at least one event was accepted; which were not, and why, stands beside it."""
    refused = [{"index": place, "code": RejectionReason.CONTRACT, "message": problem} for place, problem in result.refused]
    if refused and not result.accepted:
        body: Mapping[str, Any] = {"code": RejectionReason.CONTRACT, "message": refused[0]["message"], "refused": refused}
        return web.Response(body=orjson.dumps(body), status=400, content_type=JSON)
    body = {"success": True, "accepted": result.accepted, "refused": refused}
    if result.sites:
        body |= {"holds_for": sorted(result.sites)}
    if result.warnings:
        body |= {"warnings": [{"index": place, "message": message} for place, message in result.warnings]}
    return web.Response(body=orjson.dumps(body), content_type=JSON)


def _basic_user(header: str) -> str:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        return ""
