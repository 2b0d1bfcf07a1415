"""The HTTP API of decisions: `/v1/decide`, the widget and operations."""

import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from consumers.decisions.request import MAX_BODY, BadRequest, parse_request
from consumers.decisions.service import DecisionQuery, DecisionService, UnknownExperiment
from infra.http.answers import error_answer, json_answer, metrics_answer, ready_answer, retry_after
from infra.http.body import UndecodableBody, read_body
from infra.http.cors import allow_origin, preflight_answer
from infra.http.headers import gpc_objection
from infra.http.health import HealthAnswers, health_routes
from infra.http.rate_limit import RateLimit
from infra.parsing.address import client_address
from infra.telemetry.logs import get_logger
from infra.telemetry.metrics import Metrics

PATH = "/v1/decide"
WIDGET = Path(__file__).with_name("widget.js")
BODY_S = 5.0
"""Seconds that a body may take."""
DOOR = "decide"
LOOPBACK = ("127.0.0.1", "::1")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AccessPolicy(NamedTuple):
    """Which pages may ask, and how often each address may."""

    origins: frozenset[str]
    limit: RateLimit
    region_header: str
    """Header that the load balancer sets to the visitor's country; it must drop what a client sends under that name."""
    trusted_proxies: int = 0
    """Proxies in front that append to X-Forwarded-For."""


class DecisionApi:
    """The routes of one process."""

    def __init__(
        self, service: DecisionService, policy: AccessPolicy, metrics: Metrics, readiness: Callable[[], Mapping[str, bool]]
    ) -> None:
        self._service = service
        self._policy = policy
        self._metrics = metrics
        self._readiness = readiness
        self._widget = WIDGET.read_bytes()

    def app(self) -> web.Application:
        """Build the aiohttp application."""
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._record_metrics])
        app.router.add_post(PATH, self.decide)
        app.router.add_options(PATH, self.preflight)
        app.router.add_get("/widget.js", self.widget)
        health = HealthAnswers(lambda: web.json_response({"live": True}), self._check_readiness, self._render_metrics)
        app.add_routes(health_routes(health))
        return app

    @web.middleware
    async def _record_metrics(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = error_answer(error.status, error.reason.lower())
        except ConnectionError:
            raise
        except Exception as error:  # whatever it is, the page gets an answer that it can read
            get_logger().error("a request failed", error=type(error).__name__)
            response = _share(request, error_answer(503, "the decision failed: ask again later", retry_after(1)))
        if request.path == PATH:
            self._metrics.observe("headwater_decision_seconds", time.perf_counter() - started)
            self._metrics.count("headwater_requests_total", door=DOOR, status=str(response.status))
        return response

    async def decide(self, request: web.Request) -> web.Response:
        """Answer `POST /v1/decide`."""
        if not self._is_allowed(request):
            return error_answer(403, "this origin may not ask; add it with --origin or HEADWATER_DECISION_ORIGINS")
        forwarded = request.headers.getall("X-Forwarded-For", ())
        caller = client_address(request.remote or "", forwarded, self._policy.trusted_proxies)
        if caller not in LOOPBACK and not self._policy.limit.allow(caller, time.monotonic()):
            return _share(request, error_answer(429, "too many questions from this address", retry_after(1)))
        return _share(request, await self._answer(request))

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            query = self._query(request, await read_body(request, BODY_S))
            answer = await self._service.answer(query, time.time_ns() // 1_000_000)
        except web.HTTPRequestEntityTooLarge:
            return error_answer(413, f"the body is larger than {MAX_BODY} bytes")
        except TimeoutError:
            return error_answer(408, f"the body did not arrive within {BODY_S:g} s")
        except BadRequest as error:
            return error_answer(400, str(error))
        except UndecodableBody:
            response = error_answer(400, "the body cannot be decompressed as Content-Encoding says")
            response.force_close()  # the rest of the body cannot be read either
            return response
        except UnknownExperiment:
            if not self._readiness()["experiments"]:
                return error_answer(503, "the experiments are not known yet", retry_after(1))
            return error_answer(404, "no such experiment; `headwater experiments list` shows what there is")
        return json_answer(answer, headers={"Cache-Control": "no-store"})

    def _query(self, request: web.Request, body: bytes) -> DecisionQuery:
        headers, region_header = request.headers, self._policy.region_header
        region = headers.get(region_header, "") if region_header else ""
        gpc = gpc_objection(headers.getall("Sec-GPC", ()))
        return DecisionQuery(parse_request(body), region, gpc, headers.get("Origin", ""))

    def _is_allowed(self, request: web.Request) -> bool:
        origin = request.headers.get("Origin")
        # A request without an origin comes from a server or from a page of this host; other pages always send one.
        return origin is None or origin in self._policy.origins or origin.partition("://")[2] == request.host

    async def preflight(self, request: web.Request) -> web.Response:
        """Answer a CORS preflight: allowed origins, POST, and a content type."""
        if not self._is_allowed(request):
            return error_answer(403, "this origin may not ask")
        return _share(request, preflight_answer("POST", "content-type"))

    async def widget(self, _request: web.Request) -> web.Response:
        """Answer with the browser's script."""
        headers = {"Cache-Control": "public, max-age=300", "X-Content-Type-Options": "nosniff"}
        return web.Response(body=self._widget, content_type="text/javascript", charset="utf-8", headers=headers)

    def _check_readiness(self) -> web.Response:
        """Answer 200 once the experiments are known: without Redis the last snapshots or default arms are served."""
        state = dict(self._readiness())
        return ready_answer(state, state["experiments"], web.json_response)

    def _render_metrics(self) -> web.Response:
        return metrics_answer(self._metrics.registry, "utf-8")


def _share(request: web.Request, response: web.Response) -> web.Response:
    """Let the page that asked read the answer."""
    origin = request.headers.get("Origin")
    if origin is not None:
        allow_origin(response, origin)
    return response
