"""Bodies, health routes and cross-origin answers over a real socket."""

import asyncio
import gzip
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from infra.http.answers import error_answer, json_answer, ready_answer, retry_after
from infra.http.body import UndecodableBody, read_body
from infra.http.cors import allow_origin, preflight_answer
from infra.http.health import HealthAnswers, health_routes
from infra.http.listening import build_runner, listen


async def echo(request: web.Request) -> web.StreamResponse:
    """Answer with the body, and its problem where it cannot be read."""
    try:
        return web.Response(body=await read_body(request, 0.2))
    except UndecodableBody:
        response = error_answer(400, "undecodable")
        response.force_close()
        return response
    except TimeoutError:
        return error_answer(408, "late", retry_after(3))


def application() -> web.Application:
    """An application of 1,000 bytes a body that is not ready."""
    app = web.Application(client_max_size=1_000)
    app.router.add_post("/echo", echo)
    answers = HealthAnswers(
        lambda: json_answer({"live": True}), lambda: ready_answer({"ready": False}, False), lambda: web.Response(text="m")
    )
    app.add_routes(health_routes(answers, allow_head=False))
    return app


def test_bodies_are_decompressed_bounded_and_waited_for_only_so_long() -> None:
    """gzip is undone; what does not inflate, is too large or comes late is told apart."""

    async def late() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.sleep(1)
        yield b"b"

    async def visit() -> None:
        runner = build_runner(application())
        await runner.setup()
        port = await listen(runner, "127.0.0.1", 0)
        async with ClientSession(f"http://127.0.0.1:{port}") as session:
            async with session.post("/echo", data=gzip.compress(b"x"), headers={"Content-Encoding": "gzip"}) as answer:
                assert (answer.status, await answer.read()) == (200, b"x")
            for encoding in ("gzip", "deflate"):
                async with session.post("/echo", data=b"neither", headers={"Content-Encoding": encoding}) as answer:
                    assert (answer.status, await answer.read()) == (400, b'{"error":"undecodable"}')
            async with session.post("/echo", data=b"x" * 2_000) as answer:
                assert answer.status == 413
            async with session.post("/echo", data=late()) as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (408, "3")
        await runner.cleanup()

    asyncio.run(visit())


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [("/health/live", 200, b'{"live":true}'), ("/health/ready", 503, b'{"ready":false}'), ("/metrics", 200, b"m")],
)
def test_health_routes(path: str, status: int, body: bytes) -> None:
    """Each answers what it was given, and HEAD only where it is allowed."""

    async def visit() -> None:
        async with TestServer(application()) as server, ClientSession(server.make_url("/")) as session:
            async with session.get(path) as answer:
                assert (answer.status, await answer.read()) == (status, body)
            async with session.head(path) as answer:
                assert answer.status == 405

    asyncio.run(visit())


def test_cross_origin_headers() -> None:
    """One origin is let in, and caches are told that answers differ by origin."""
    response = preflight_answer("POST", "content-type")
    allow_origin(response, "https://shop.example")
    assert response.status == 204
    assert response.headers["Access-Control-Allow-Methods"] == "POST"
    assert response.headers["Access-Control-Allow-Headers"] == "content-type"
    assert (response.headers["Access-Control-Allow-Origin"], response.headers["Vary"]) == ("https://shop.example", "Origin")
