"""The routes that every server has for operations: liveness, readiness and metrics."""

from collections.abc import Callable
from typing import NamedTuple

from aiohttp import web
from aiohttp.typedefs import Handler

Answer = Callable[[], web.Response]


class HealthAnswers(NamedTuple):
    """What the three addresses answer."""

    live: Answer
    ready: Answer
    metrics: Answer


def health_routes(answers: HealthAnswers, *, allow_head: bool = True) -> list[web.RouteDef]:
    """Return the routes of `/health/live`, `/health/ready` and `/metrics`: GET, and HEAD where it is allowed."""
    paths = {"/health/live": answers.live, "/health/ready": answers.ready, "/metrics": answers.metrics}
    return [web.get(path, _handler(answer), allow_head=allow_head) for path, answer in paths.items()]


def _handler(answer: Answer) -> Handler:
    async def handle(_request: web.Request) -> web.StreamResponse:
        return answer()

    return handle


__all__ = ["HealthAnswers", "health_routes"]
