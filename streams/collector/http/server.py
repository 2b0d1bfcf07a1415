"""The collector's HTTP API: routes of the doors, operations and previews."""

import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from infra.http.answers import json_answer, metrics_answer, ready_answer, retry_after
from infra.http.cors import allow_origin, preflight_answer
from infra.http.headers import gpc_objection
from infra.http.health import HealthAnswers, health_routes
from infra.http.rate_limit import RateLimit
from infra.parsing.region import region_of
from infra.telemetry.metrics import Metrics
from streams.collector.delivery.sink import Sink
from streams.collector.delivery.spool import SpoolFull
from streams.collector.event import InvalidField
from streams.collector.http.answers import answer_events, list_problems, summarise
from streams.collector.http.payload import parse_json, query_fields, read_bytes
from streams.collector.http.rejections import RETRY_AFTER_S, RejectionReason, RequestRejected
from streams.collector.intake import MAX_PREVIEWS, Intake, IntakePreview, IntakeResult
from streams.collector.normalise import RequestContext
from streams.collector.protocols.doors import DOORS, AnswerFormat, ChoiceDoor, EventDoor, RequestHead
from streams.collector.write_keys import KeyKind, WriteKey, WriteKeyStore

MAX_BODY = 1_000_000
"""Bytes of a decompressed body."""
MAX_ITEMS = 500
"""Items of one request."""
PREVIEWS = {"good": (True,), "bad": (False,), "all": (True, False), "reset": (True, False)}
"""Paths beneath `/micro/`, and which items they show: accepted ones, refused ones."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class CollectorOptions:
    """Options of the command."""

    region_header: str = ""
    """Header that a trusted proxy sets to the visitor's region; it must drop what a client sends under that name."""
    forwarded: bool = False
    """A trusted proxy sets X-Forwarded-For."""
    origins: frozenset[str] = frozenset()
    micro: bool = False


class CollectorApi:
    """The routes of one process."""

    def __init__(self, intake: Intake, sink: Sink, keys: WriteKeyStore, metrics: Metrics, options: CollectorOptions) -> None:
        self._intake = intake
        self._sink = sink
        self._keys = keys
        self._metrics = metrics
        self._options = options
        self._limits: dict[float, RateLimit] = {}
        self._previews: deque[IntakePreview] = deque(maxlen=MAX_PREVIEWS)

    def app(self) -> web.Application:
        """Build the aiohttp application."""
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._answer_errors])
        for door in DOORS:
            handler = self._event_handler(door) if isinstance(door, EventDoor) else self._choice_handler(door)
            app.router.add_route(door.method, door.path, handler)
        health = HealthAnswers(lambda: web.Response(text="ok"), self._check_readiness, self._render_metrics)
        app.add_routes(health_routes(health, allow_head=False))
        if self._options.micro:
            self._intake.on_preview = self._previews.append
            for selection in PREVIEWS:
                app.router.add_route("GET", f"/micro/{selection}", self._show_previews)
        app.router.add_route("OPTIONS", "/{path:.*}", self._answer_preflight)
        return app

    @web.middleware
    async def _answer_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        try:
            response = await handler(request)
        except RequestRejected as error:
            response = self._reject(error)
        except SpoolFull:
            response = self._reject(RequestRejected(RejectionReason.FULL))
        except web.HTTPRequestEntityTooLarge:
            response = self._reject(RequestRejected(RejectionReason.TOO_LARGE))
        except web.HTTPException as error:
            response = self._reject(RequestRejected(RejectionReason.NOT_FOUND)) if error.status in (404, 405) else error
        door = request.match_info.route.resource.canonical if request.match_info.route.resource else "none"
        self._metrics.observe("headwater_request_seconds", time.perf_counter() - started, door=door)
        self._metrics.count("headwater_requests_total", door=door, status=str(response.status))
        if (origin := request.headers.get("Origin")) in self._options.origins:
            allow_origin(response, str(origin))
        return response

    def _reject(self, error: RequestRejected) -> web.Response:
        self._metrics.count("headwater_refused_total", door="collector", reason=error.reason)
        headers = retry_after(RETRY_AFTER_S[error.reason]) if error.reason in RETRY_AFTER_S else None
        return json_answer({"code": error.reason, "message": str(error)}, error.status, headers)

    # -- doors

    def _event_handler(self, door: EventDoor) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            clear = door.key_location.find_in_head(_head(request))
            key = None if clear is None else self._find_key(clear)
            payload = query_fields(request) if door.method == "GET" else parse_json(await read_bytes(request))
            try:
                key = key or self._find_key(door.key_location.find_in_payload(payload))
                items = door.extract_items(payload)
            except InvalidField as error:
                raise RequestRejected(RejectionReason.CONTRACT, str(error)) from None
            if door.answer is AnswerFormat.VALIDATION:
                return list_problems(map(door.parse_item, items))
            self._admit(key, len(items))
            result = self._intake.accept_events(items, door.parse_item, self._context(request, key))
            await self._deliver(result)
            return answer_events(door.answer, result)

        return handle

    def _choice_handler(self, door: ChoiceDoor) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            key = self._find_key(door.key_location.find_in_head(_head(request)))
            body = await read_bytes(request)
            payload = parse_json(body)
            try:
                items = door.extract_items(payload)
            except InvalidField as error:
                self._admit(key, 1)
                result = self._intake.reject_body(body, str(error), self._context(request, key))
            else:
                self._admit(key, len(items))
                single = body if items and items[0] is payload else b""
                result = self._intake.accept_choices(items, door.parse_item, self._context(request, key), single)
            await self._deliver(result)
            return summarise(result)

        return handle

    def _find_key(self, clear: object) -> WriteKey:
        key = self._keys.find(clear) if isinstance(clear, str) and clear else None
        if key is None:
            raise RequestRejected(RejectionReason.UNKNOWN_KEY)
        return key

    def _admit(self, key: WriteKey, items: int) -> None:
        if items > MAX_ITEMS:
            raise RequestRejected(RejectionReason.TOO_MANY)
        limit = self._limits.setdefault(key.events_per_s, RateLimit(key.events_per_s, max(2 * key.events_per_s, MAX_ITEMS)))
        if not limit.allow(key.source, time.monotonic(), items):
            raise RequestRejected(RejectionReason.RATE)

    async def _deliver(self, result: IntakeResult) -> None:
        if result.records:
            await self._sink.send(result.records)

    def _context(self, request: web.Request, key: WriteKey) -> RequestContext:
        headers, options = request.headers, self._options
        forwarded = headers.get("X-Forwarded-For", "").split(",")[0] if options.forwarded else ""
        return RequestContext(
            key.source,
            key.site,
            int(time.time() * 1000),
            _region(headers.get(options.region_header, "") if options.region_header else "", key),
            headers.get("User-Agent", ""),
            forwarded or request.remote or "",
            gpc_objection(headers.getall("Sec-GPC", ())),
            key.kind,
        )

    # -- operations, previews, preflights

    def _check_readiness(self) -> web.Response:
        is_ready = self._sink.has_room
        seconds = round(time.monotonic() - self._sink.last_ack, 1)
        return ready_answer({"ready": is_ready, "seconds_since_ack": seconds}, is_ready)

    def _render_metrics(self) -> web.Response:
        return metrics_answer(self._metrics.registry)

    async def _show_previews(self, request: web.Request) -> web.Response:
        selection = request.path.rpartition("/")[2]
        if selection == "reset":
            self._previews.clear()
        shown = [preview.content for preview in self._previews if preview.accepted in PREVIEWS[selection]]
        return json_answer(shown, default=str)

    async def _answer_preflight(self, request: web.Request) -> web.Response:
        if request.headers.get("Origin") not in self._options.origins:
            raise web.HTTPNotFound
        return preflight_answer("GET, POST", "Authorization, Content-Type")


def _head(request: web.Request) -> RequestHead:
    return RequestHead(request.headers.get("Authorization", ""), request.query)


def _region(header: str, key: WriteKey) -> str | None:
    """Return the region of a visitor's own request; None for a server's, whose headers tell where the server is."""
    return region_of(header) if key.kind is KeyKind.BROWSER else None
