"""Answers of the doors to requests whose items were processed."""

import base64
from collections.abc import Iterable, Sequence
from typing import Any

from aiohttp import web

from infra.http.answers import json_answer
from streams.collector.event import InvalidItem, Item
from streams.collector.http.rejections import RejectionReason
from streams.collector.intake import IntakeResult
from streams.collector.protocols.doors import AnswerFormat

PIXEL = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
"""A transparent GIF of one pixel."""


def answer_events(answer: AnswerFormat, result: IntakeResult, mended: Sequence[str] = ()) -> web.Response:
    """Answer a request of events in its door's format. `mended`: what was read differently from how it was sent."""
    match answer:
        case AnswerFormat.OK_TEXT:
            return web.Response(text="ok")
        case AnswerFormat.PIXEL:
            return web.Response(body=PIXEL, content_type="image/gif", headers={"Cache-Control": "no-store"})
        case AnswerFormat.EMPTY:
            return web.Response(status=200)
        case AnswerFormat.NO_CONTENT:
            return web.Response(status=204)
        case _:
            return summarise(result, mended)


def summarise(result: IntakeResult, mended: Sequence[str] = ()) -> web.Response:
    """Answer 200 where at least one item was accepted, else 400; each refused item is listed with its index and problem."""
    refusals = [{"index": index, "code": RejectionReason.CONTRACT, "message": problem} for index, problem in result.refused]
    if refusals and not result.accepted:
        return json_answer({"code": RejectionReason.CONTRACT, "message": refusals[0]["message"], "refused": refusals}, 400)
    body: dict[str, Any] = {"success": True, "accepted": result.accepted, "refused": refusals}
    if result.sites:
        body |= {"holds_for": sorted(result.sites)}
    if result.warnings:
        body |= {"warnings": [{"index": index, "message": message} for index, message in result.warnings]}
    if mended:
        body |= {"mended": list(mended)}
    return json_answer(body)


def list_problems(items: Iterable[Item]) -> web.Response:
    """Answer with the problems of each item, as Google's `/debug/mp/collect` does."""
    messages = [
        {"fieldPath": f"events[{index}]", "description": problem}
        for index, item in enumerate(items)
        for problem in ([item.detail] if isinstance(item, InvalidItem) else item.problems)
    ]
    return json_answer({"validationMessages": messages})


__all__ = ["answer_events", "list_problems", "summarise"]
