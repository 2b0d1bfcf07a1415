"""The gauge's HTTP API: /lag, /metrics, /v1/live, the ops page and health checks. All of it is read-only."""

import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from consumers.gauge.export import exposition
from consumers.gauge.lag.reading import LagReading, as_json
from consumers.gauge.live.listeners import ListenerHub
from consumers.gauge.live.stream import live_routes
from consumers.gauge.page.page import HERE, Page
from consumers.gauge.recent import RecentActivity
from consumers.gauge.row_checks import RowCheck, row_checks_json
from infra.http.answers import error_answer, json_answer, ready_answer
from infra.http.health import HealthAnswers, health_routes
from infra.http.rate_limit import RateLimit, limit_requests
from infra.secrets import equal_in_constant_time

COOKIE = "headwater_gauge"
COOKIE_S = 12 * 3_600
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
REQUESTS_PER_S, REQUESTS_AT_ONCE = 50.0, 200.0
"""Of all callers together: token guessing, or a client in a loop, must not slow down the lag collector."""
LOCAL_NAMES = {"127.0.0.1", "localhost", "::1"}
STATIC = {"gauge.css": "text/css", "refresh.js": "text/javascript", "icon.svg": "image/svg+xml"}


@dataclass(slots=True)
class Dashboard:
    """The state that the API shows. The loop that reads Kafka replaces whole values."""

    stale_s: float
    reading: LagReading | None = None
    recent: Callable[[float], RecentActivity] = field(default=lambda _now: RecentActivity())
    row_checks: tuple[RowCheck, ...] | None = None
    """Results of the warehouse's verification; None while ClickHouse does not answer."""

    def fresh(self, now: float) -> bool:
        """Return whether the reading is at most `stale_s` old at `now` (seconds UTC)."""
        return self.reading is not None and now - self.reading.at <= self.stale_s


class GaugeApi:
    """The routes of the gauge. All but /health and /static need the token; without one only loopback is answered."""

    def __init__(
        self,
        dashboard: Dashboard,
        page: Page,
        token: str | None,
        now: Callable[[], float] = time.time,
        hub: ListenerHub | None = None,
    ) -> None:
        self._hub = hub
        self._dashboard = dashboard
        self._page = page
        self._token = token
        self._now = now

    def app(self) -> web.Application:
        """Build the aiohttp application."""
        guard = _token_guard(self._page, self._token) if self._token else _loopback_guard
        limit = limit_requests(RateLimit(REQUESTS_PER_S, REQUESTS_AT_ONCE), self._now)
        app = web.Application(middlewares=[_security_headers, limit, guard], client_max_size=65_536)
        health = HealthAnswers(lambda: json_answer({"live": True}), self._check_readiness, self._render_metrics)
        app.add_routes(
            [
                web.get("/", self.show_page),
                web.get("/lag", self.report_lag),
                *health_routes(health),
                web.get("/static/{name}", self.serve_static),
            ]
        )
        if self._hub is not None:
            app.add_routes(live_routes(self._hub, HEADERS))
            app.on_shutdown.append(self._end_listeners)
        return app

    async def _end_listeners(self, _app: web.Application) -> None:
        if self._hub is not None:
            self._hub.close()

    async def report_lag(self, _request: web.Request) -> web.StreamResponse:
        """Answer with the lag of every group as JSON; 503 before Kafka has answered for the first time."""
        dashboard, now = self._dashboard, self._now()
        if dashboard.reading is None:
            return error_answer(503, "Kafka has not answered yet")
        recent = dashboard.recent(now)
        pending = recent.pending
        overdue = sum(request.overdue(int(now * 1000)) for request in pending)
        body = {
            **as_json(dashboard.reading),
            "privacy": {"open": len(pending), "overdue": overdue},
            "unresolved": recent.deferred,
            "row_checks": None if dashboard.row_checks is None else row_checks_json(dashboard.row_checks),
            "unmapped_signals": [{"source": source, "name": name, "events": n} for (source, name), n in recent.unmapped],
        }
        return json_answer({**body, "fresh": dashboard.fresh(now), "age_s": round(now - dashboard.reading.at, 3)})

    async def show_page(self, _request: web.Request) -> web.StreamResponse:
        """Answer with the ops page."""
        dashboard, now = self._dashboard, self._now()
        html = self._page.render(dashboard.reading, dashboard.recent(now), now, dashboard.row_checks)
        return web.Response(text=html, content_type="text/html")

    async def serve_static(self, request: web.Request) -> web.StreamResponse:
        """Answer with a file of the page; 404 for any other name."""
        name = request.match_info["name"]
        if name not in STATIC:
            raise web.HTTPNotFound
        headers = {"Cache-Control": "max-age=300"}
        return web.Response(body=(HERE / "static" / name).read_bytes(), content_type=STATIC[name], headers=headers)

    def _check_readiness(self) -> web.Response:
        is_fresh = self._dashboard.fresh(self._now())
        return ready_answer({"ready": is_fresh}, is_fresh)

    def _render_metrics(self) -> web.Response:
        dashboard, now = self._dashboard, self._now()
        recent = dashboard.recent(now)
        body = exposition(dashboard.reading, recent.pending if recent.complete else None, now)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


@web.middleware
async def _security_headers(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except web.HTTPException as error:
        error.headers.update({name: value for name, value in HEADERS.items() if name not in error.headers})
        raise
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


@web.middleware
async def _loopback_guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer requests to loopback names only, which prevents DNS rebinding by web pages."""
    try:
        name = urlsplit(f"//{request.host}").hostname
    except ValueError:
        name = None
    if name not in LOCAL_NAMES:
        raise web.HTTPMisdirectedRequest(text="this gauge has no token, so it answers on loopback only")
    return await handler(request)


def _token_guard(page: Page, token: str) -> Middleware:
    # The cookie proves the token without containing it.
    proof = hmac.new(token.encode(), b"headwater/gauge/cookie", hashlib.sha256).hexdigest()

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith(("/health/", "/static/")):
            return await handler(request)
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if _matches(bearer, token) or _matches(request.cookies.get(COOKIE, ""), proof):
            return await handler(request)
        if _matches(request.query.get("token", ""), token):
            # Redirect to the URL without the token, so that it stays in no history, bookmark or screenshot.
            redirect = web.HTTPSeeOther(request.path)
            redirect.set_cookie(
                COOKIE, proof, max_age=COOKIE_S, httponly=True, samesite="Strict", path="/", secure=_is_secure(request)
            )
            raise redirect
        if request.path == "/":
            return web.Response(text=page.sign_in(), status=401, content_type="text/html")
        return error_answer(401, "token needed", {"WWW-Authenticate": "Bearer"}, web.json_response)

    return guard


def _matches(candidate: str, secret: str) -> bool:
    # Bytes that are no UTF-8 arrive as lone surrogates, which cannot be encoded for the comparison.
    return candidate.isprintable() and equal_in_constant_time(candidate, secret)


def _is_secure(request: web.Request) -> bool:
    return request.secure or request.headers.get("X-Forwarded-Proto") == "https"
