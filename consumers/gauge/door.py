"""The gauge's HTTP door: /lag, /metrics, the page and its health. Reads only; nothing here changes anything."""

import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from consumers.gauge.export import exposition
from consumers.gauge.lag.reading import LagReading, as_json
from consumers.gauge.page.page import HERE, Page
from consumers.gauge.recent import RecentActivity
from consumers.gauge.row_checks import RowCheck, row_checks_json
from infra.secrets import same

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
LOCAL_NAMES = {"127.0.0.1", "localhost", "::1"}
STATIC = {"gauge.css": "text/css", "refresh.js": "text/javascript", "icon.svg": "image/svg+xml"}


@dataclass(slots=True)
class Dashboard:
    """What the door shows; the collector loop writes it, whole values only."""

    stale_s: float
    reading: LagReading | None = None
    recent: Callable[[float], RecentActivity] = field(default=lambda _now: RecentActivity())
    row_checks: tuple[RowCheck, ...] | None = None
    """What the warehouse's verification says; None while ClickHouse does not answer."""

    def fresh(self, now: float) -> bool:
        """Whether Kafka has answered lately."""
        return self.reading is not None and now - self.reading.at <= self.stale_s


@dataclass(slots=True)
class DoorRateLimit:
    """A token bucket for the whole door: guessing tokens, or a forgotten loop, must not starve Kafka's collector."""

    per_s: float = 50.0
    burst: float = 200.0
    _left: float = 200.0
    _at: float = 0.0

    def allows(self, now: float) -> bool:
        """Whether one more request may be answered at `now` (seconds)."""
        self._left = min(self.burst, self._left + max(0.0, now - self._at) * self.per_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def make_door(board: Dashboard, page: Page, token: str | None, now: Callable[[], float] = time.time) -> web.Application:
    """The application. With a token every path but /health/* needs it; without one only loopback names are answered."""

    async def lag(_request: web.Request) -> web.StreamResponse:
        if board.reading is None:
            return _json({"error": "Kafka has not answered yet"}, 503)
        recent = board.recent(now())
        pending = recent.pending
        overdue = sum(one.overdue(int(now() * 1000)) for one in pending)
        body = {
            **as_json(board.reading),
            "privacy": {"open": len(pending), "overdue": overdue},
            "unresolved": recent.deferred,
            "row_checks": None if board.row_checks is None else row_checks_json(board.row_checks),
            "unmapped_signals": [{"source": source, "name": name, "events": n} for (source, name), n in recent.unmapped],
        }
        return _json({**body, "fresh": board.fresh(now()), "age_s": round(now() - board.reading.at, 3)})

    async def metrics(_request: web.Request) -> web.StreamResponse:
        recent = board.recent(now())
        pending = recent.pending if recent.complete else None
        return web.Response(body=exposition(board.reading, pending, now()), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def home(_request: web.Request) -> web.StreamResponse:
        html = page.render(board.reading, board.recent(now()), now(), board.row_checks)
        return web.Response(text=html, content_type="text/html")

    async def live(_request: web.Request) -> web.StreamResponse:
        return _json({"live": True})

    async def ready(_request: web.Request) -> web.StreamResponse:
        fresh = board.fresh(now())
        return _json({"ready": fresh}, 200 if fresh else 503)

    async def static(request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in STATIC:
            raise web.HTTPNotFound
        headers = {"Cache-Control": "max-age=300"}
        return web.Response(body=(HERE / "static" / name).read_bytes(), content_type=STATIC[name], headers=headers)

    guard = _token_guard(page, token) if token else _loopback_guard
    app = web.Application(middlewares=[_security_headers, _paced(DoorRateLimit(), now), guard], client_max_size=65_536)
    app.add_routes(
        [
            web.get("/", home),
            web.get("/lag", lag),
            web.get("/metrics", metrics),
            web.get("/health/live", live),
            web.get("/health/ready", ready),
            web.get("/static/{name}", static),
        ]
    )
    return app


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")


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


def _paced(pace: DoorRateLimit, now: Callable[[], float]) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not pace.allows(now()):
            raise web.HTTPTooManyRequests(headers={"Retry-After": "1"})
        return await handler(request)

    return guard


@web.middleware
async def _loopback_guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Without a token: answer to loopback names only, so that no web page can rebind a name of its own to this door."""
    try:
        name = urlsplit(f"//{request.host}").hostname
    except ValueError:
        name = None
    if name not in LOCAL_NAMES:
        raise web.HTTPMisdirectedRequest(text="this gauge has no token, so it answers on loopback only")
    return await handler(request)


def _token_guard(page: Page, token: str) -> Middleware:
    # The cookie proves the token and does not hold it.
    proof = hmac.new(token.encode(), b"headwater/gauge/cookie", hashlib.sha256).hexdigest()

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith(("/health/", "/static/")):
            return await handler(request)
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if _is(bearer, token) or _is(request.cookies.get(COOKIE, ""), proof):
            return await handler(request)
        if _is(request.query.get("token", ""), token):
            # At once to the address without the token, so that it stays in no history, bookmark or screenshot.
            moved = web.HTTPSeeOther(request.path)
            moved.set_cookie(
                COOKIE, proof, max_age=COOKIE_S, httponly=True, samesite="Strict", path="/", secure=_secure(request)
            )
            raise moved
        if request.path == "/":
            return web.Response(text=page.sign_in(), status=401, content_type="text/html")
        return web.json_response({"error": "token needed"}, status=401, headers={"WWW-Authenticate": "Bearer"})

    return guard


def _is(given: str, secret: str) -> bool:
    # Bytes that are no UTF-8 arrive as lone surrogates, which cannot be compared (nor printed).
    return given.isprintable() and same(given, secret)


def _secure(request: web.Request) -> bool:
    return request.secure or request.headers.get("X-Forwarded-Proto") == "https"
