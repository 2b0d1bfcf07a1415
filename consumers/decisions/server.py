"""The HTTP door: origins, limits, and one route that matters."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import orjson
from aiohttp import web
from prometheus_client import generate_latest

from consumers.decisions.request import MAX_BODY, BadRequest, parse_request
from consumers.decisions.service import DecisionQuery, DecisionService, UnknownExperiment
from infra.http.rate_limit import RateLimit
from infra.telemetry.metrics import Metrics

WIDGET = Path(__file__).with_name("widget.js")
BODY_S = 5.0
DOOR = "decide"
JSON = "application/json"
LOOPBACK = ("127.0.0.1", "::1")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AccessPolicy(NamedTuple):
    """Who may ask, and how often."""

    origins: frozenset[str]
    limit: RateLimit
    region_header: str
    """Header that the load balancer sets to the visitor's country; it must drop what a client sends under that name."""


class DecisionApi:
    """The routes of one process."""

    def __init__(
        self, service: DecisionService, policy: AccessPolicy, metrics: Metrics, ready: Callable[[], Mapping[str, bool]]
    ) -> None:
        self._service = service
        self._policy = policy
        self._metrics = metrics
        self._ready = ready
        self._widget = WIDGET.read_bytes()

    def app(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._record_metrics])
        app.router.add_post("/v1/decide", self.decide)
        app.router.add_options("/v1/decide", self.preflight)
        app.router.add_get("/widget.js", self.widget)
        app.router.add_get("/health/live", self.live)
        app.router.add_get("/health/ready", self.ready)
        app.router.add_get("/metrics", self.metrics)
        return app

    @web.middleware
    async def _record_metrics(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = _reject(error.status, error.reason.lower())
        if request.path == "/v1/decide":
            self._metrics.observe("headwater_decision_seconds", time.perf_counter() - started)
            self._metrics.count("headwater_requests_total", door=DOOR, status=str(response.status))
        return response

    async def decide(self, request: web.Request) -> web.Response:
        """`POST /v1/decide`."""
        if not self._is_allowed(request):
            return _reject(403, "this origin may not ask; add it with --origin or HEADWATER_DECISION_ORIGINS")
        caller = request.remote or ""
        if caller not in LOOPBACK and not self._policy.limit.allow(caller, time.monotonic()):
            return self._allow_origin(request, _reject(429, "too many questions from this address", {"Retry-After": "1"}))
        return self._allow_origin(request, await self._answer(request))

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            body = await asyncio.wait_for(request.read(), BODY_S)
            origin = request.headers.get("Origin", "")
            region = request.headers.get(self._policy.region_header, "") if self._policy.region_header else ""
            query = DecisionQuery(parse_request(body), region, _objection(request.headers.getall("Sec-GPC", ())), origin)
            answer = await self._service.answer(query, time.time_ns() // 1_000_000)
        except web.HTTPRequestEntityTooLarge:
            return _reject(413, f"the body is larger than {MAX_BODY} bytes")
        except TimeoutError:
            return _reject(408, f"the body did not arrive within {BODY_S:g} s")
        except BadRequest as error:
            return _reject(400, str(error))
        except web.RequestPayloadError:
            response = _reject(400, "the body cannot be decompressed as Content-Encoding says")
            response.force_close()  # what is left of the body cannot be read either
            return response
        except UnknownExperiment:
            if not self._ready()["experiments"]:
                return _reject(503, "the experiments are not known yet", {"Retry-After": "1"})
            return _reject(404, "no such experiment; `headwater experiments list` shows what there is")
        return web.Response(body=orjson.dumps(answer), content_type=JSON, headers={"Cache-Control": "no-store"})

    def _is_allowed(self, request: web.Request) -> bool:
        origin = request.headers.get("Origin")
        # A request without an origin comes from a server or this very page; an origin is what keeps other pages out.
        return origin is None or origin in self._policy.origins or origin.partition("://")[2] == request.host

    def _allow_origin(self, request: web.Request, response: web.Response) -> web.Response:
        origin = request.headers.get("Origin")
        if origin is not None:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Vary"] = "Origin"
        return response

    async def preflight(self, request: web.Request) -> web.Response:
        """CORS preflight: the origins of the allow-list, POST, and a content type."""
        if not self._is_allowed(request):
            return _reject(403, "this origin may not ask")
        headers = {
            "Access-Control-Allow-Methods": "POST",
            "Access-Control-Allow-Headers": "content-type",
            "Access-Control-Max-Age": "600",
        }
        return self._allow_origin(request, web.Response(status=204, headers=headers))

    async def widget(self, _request: web.Request) -> web.Response:
        """The browser's side."""
        headers = {"Cache-Control": "public, max-age=300", "X-Content-Type-Options": "nosniff"}
        return web.Response(body=self._widget, content_type="text/javascript", charset="utf-8", headers=headers)

    async def live(self, _request: web.Request) -> web.Response:
        """The process answers."""
        return web.json_response({"live": True})

    async def ready(self, _request: web.Request) -> web.Response:
        """200 once the experiments are known; without Redis the last snapshots, else the default arm are served."""
        state = dict(self._ready())
        return web.json_response(state, status=200 if state["experiments"] else 503)

    async def metrics(self, _request: web.Request) -> web.Response:
        """Prometheus metrics."""
        return web.Response(body=generate_latest(self._metrics.registry), content_type="text/plain", charset="utf-8")


def _objection(headers: Sequence[str]) -> str:
    """What `Sec-GPC` says, as sent: the gate judges it. Empty for what is absent or does not object."""
    objection = ", ".join(value for value in headers if value.strip() not in ("", "0"))
    return objection.encode("ascii", "replace").decode()  # a header's bytes may be no UTF-8


def _reject(status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=orjson.dumps({"error": text}), content_type=JSON, headers=headers)
