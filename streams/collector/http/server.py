"""The collector's HTTP API: doors, operations and previews, and the answers to what is rejected."""

import time
from collections import deque
from collections.abc import Callable

from aiohttp import web

from infra.http.answers import json_answer, metrics_answer, ready_answer, retry_after
from infra.http.body import BodyTooLarge
from infra.telemetry.logs import get_logger
from infra.telemetry.metrics import Metrics
from streams.collector.delivery.sink import Sink
from streams.collector.delivery.spool import SpoolFull
from streams.collector.http.api_document import build_api_document
from streams.collector.http.handlers import DoorHandlers
from streams.collector.http.options import CollectorOptions
from streams.collector.http.origins import OriginRules
from streams.collector.http.rejections import KEPT, RETRY_AFTER_S, RejectionReason, RequestRejected
from streams.collector.http.routes import Route, RouteHandler, RouteTable
from streams.collector.http.sender_request import SenderRequest
from streams.collector.intake import MAX_PREVIEWS, Intake, IntakePreview
from streams.collector.protocols.doors import build_doors
from streams.collector.write_keys import WriteKeyStore

MAX_BODY = 1_000_000
"""Bytes of a body, as sent and decompressed."""
MAX_HELD = 8_388_608
"""Bytes of the bodies of requests without an answer. Parsed, they take about ten times as much memory."""
PREVIEWS = {"good": (True,), "bad": (False,), "all": (True, False), "reset": (True, False)}
"""Paths beneath `/micro/`, and which items they show: accepted ones, refused ones."""


class CollectorApi:
    """The routes of one process."""

    def __init__(self, intake: Intake, sink: Sink, keys: WriteKeyStore, metrics: Metrics, options: CollectorOptions) -> None:
        self._sink = sink
        self._metrics = metrics
        self._doors = DoorHandlers(intake, sink, keys, metrics, options)
        self._origins = OriginRules(options.origins, metrics)
        self._held_bytes = 0
        self._previews: deque[IntakePreview] = deque(maxlen=MAX_PREVIEWS)
        doors = build_doors(options.snowplow_paths)
        self._document = build_api_document(doors, options.base_path)
        routes = [*self._doors.routes(doors), *self._operations()]
        if options.micro:
            intake.on_preview = self._previews.append
            routes += [Route("GET", f"/micro/{selection}", self._show_previews) for selection in PREVIEWS]
        self._routes = RouteTable(routes, options.base_path)

    def app(self) -> web.Application:
        """Build the aiohttp application. One handler takes every path, so that every answer has the headers and is counted."""
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._serve)
        return app

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        started = time.perf_counter()
        sender = SenderRequest(request)
        size = _largest_body(request)
        if self._held_bytes + size > MAX_HELD:
            response: web.StreamResponse = self._refuse_busy()
        else:
            self._held_bytes += size
            try:
                response = await self._answer(sender)
            finally:
                self._held_bytes -= size
        if not request.content.is_eof():
            response.force_close()  # what is left of the body is not the next request
        self._metrics.observe("headwater_request_seconds", time.perf_counter() - started, door=sender.door)
        self._metrics.count("headwater_requests_total", door=sender.door, status=str(response.status))
        self._origins.share(request, response)
        return response

    def _refuse_busy(self) -> web.Response:
        """Answer at once, without reading the body: what waits for Kafka must stay within the process's memory."""
        self._metrics.count("headwater_refused_total", door="collector", reason=RejectionReason.BUSY)
        return _reject(RequestRejected(RejectionReason.BUSY))

    async def _answer(self, sender: SenderRequest) -> web.StreamResponse:
        """Answer a request. No exception but those of a lost connection leaves it."""
        request = sender.request
        try:
            if request.method == "OPTIONS":
                sender.door = "/{path}"
                return self._origins.answer_preflight(request)
            route = self._routes.find(request.method, request.path)
            sender.door = route.path
            return await route.handle(sender)
        except ConnectionError:
            raise
        except Exception as error:  # whatever it is, the sender gets an answer that it can read
            rejection = _as_rejection(error, sender.door)
        try:
            if rejection.reason in KEPT and await self._doors.keep_rejected(sender, rejection.reason, str(rejection)):
                return _reject(rejection)  # the intake has counted it
        except ConnectionError:
            raise
        except Exception as error:
            rejection = _as_rejection(error, sender.door)
        self._metrics.count("headwater_refused_total", door="collector", reason=rejection.reason)
        return _reject(rejection)

    # -- operations and previews

    def _operations(self) -> list[Route]:
        answers = {
            "/health/live": lambda: web.Response(text="ok"),
            "/health/ready": self._check_readiness,
            "/metrics": lambda: metrics_answer(self._metrics.page_registry),
            "/openapi.json": lambda: json_answer(self._document),
        }
        return [Route(method, path, _as_handler(answer)) for path, answer in answers.items() for method in ("GET", "HEAD")]

    def _check_readiness(self) -> web.Response:
        is_ready = self._sink.has_room
        seconds = round(time.monotonic() - self._sink.last_ack, 1)
        return ready_answer({"ready": is_ready, "seconds_since_ack": seconds}, is_ready)

    async def _show_previews(self, sender: SenderRequest) -> web.StreamResponse:
        selection = sender.door.rpartition("/")[2]
        if selection == "reset":
            self._previews.clear()
        shown = [preview.content for preview in self._previews if preview.accepted in PREVIEWS[selection]]
        return json_answer(shown, default=str)


def _largest_body(request: web.Request) -> int:
    """Return the bytes that a request's body may have."""
    if not request.body_exists:
        return 0
    length = request.content_length
    return MAX_BODY if length is None else min(length, MAX_BODY)


def _as_handler(answer: Callable[[], web.Response]) -> RouteHandler:
    async def handle(_sender: SenderRequest) -> web.StreamResponse:
        return answer()

    return handle


def _reject(error: RequestRejected) -> web.Response:
    headers = retry_after(RETRY_AFTER_S[error.reason]) if error.reason in RETRY_AFTER_S else None
    return json_answer({"code": error.reason, "message": str(error)}, error.status, headers)


def _as_rejection(error: Exception, door: str) -> RequestRejected:
    """Return the rejection that an exception means. One that means none is a defect, which is logged without its data."""
    match error:
        case RequestRejected():
            return error
        case SpoolFull():
            return RequestRejected(RejectionReason.FULL)
        case BodyTooLarge():
            return RequestRejected(RejectionReason.TOO_LARGE)
        case _:
            get_logger().error("a request failed", door=door, error=type(error).__name__)
            return RequestRejected(RejectionReason.FAILED)


__all__ = ["CollectorApi"]
