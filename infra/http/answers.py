"""JSON answers, error answers and the metrics page."""

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

JSON = "application/json"

Responder = Callable[..., web.Response]
"""Makes a JSON answer of a body, `status` and `headers`: `json_answer`, or aiohttp's `json_response`, which spaces its JSON."""


def json_answer(
    body: object,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    default: Callable[[Any], Any] | None = None,
) -> web.Response:
    """Answer with compact JSON. `default` encodes what orjson does not know."""
    return web.Response(body=orjson.dumps(body, default=default), status=status, content_type=JSON, headers=headers)


def error_answer(
    status: int, message: str, headers: Mapping[str, str] | None = None, respond: Responder = json_answer
) -> web.Response:
    """Answer `{"error": message}`."""
    return respond({"error": message}, status=status, headers=headers)


def ready_answer(state: Mapping[str, object], is_ready: bool, respond: Responder = json_answer) -> web.Response:
    """Answer a readiness check with its state: 200 or 503."""
    return respond(state, status=200 if is_ready else 503)


def metrics_answer(registry: CollectorRegistry, charset: str | None = None) -> web.Response:
    """Answer with the metrics of a registry in Prometheus's text format."""
    return web.Response(body=generate_latest(registry), content_type="text/plain", charset=charset)


def retry_after(seconds: int) -> dict[str, str]:
    """Return the header that says when to send again."""
    return {"Retry-After": str(seconds)}


__all__ = ["JSON", "Responder", "error_answer", "json_answer", "metrics_answer", "ready_answer", "retry_after"]
