"""Does it answer? Questions to servers, ours and others', that end within about a second."""

import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

from infra.errors import ConfigError
from infra.ops.embedded.ports import is_served

ELSEWHERE_S = 10.0


def http_get(url: str) -> str:
    """The body of a page; empty when it does not answer 200 within a second. No proxy is asked: loopback is here."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with suppress(OSError, ValueError), direct.open(url, timeout=1) as answer:
        return str(answer.read().decode(errors="replace"))
    return ""


def http_answers(url: str, containing: str = "") -> bool:
    """Whether a page answers 200 with some text in it."""
    body = http_get(url)
    return bool(body) and containing in body


def is_served_and_answers(port: int, answers: Callable[[], bool]) -> bool:
    """Whether something listens on the port, which is quickly asked, and answers."""
    return is_served(port) and answers()


def wait_for_external(service: str, address: str, option: str, answers: Callable[[], bool]) -> str:
    """Wait a little for a server that somebody else runs; what to tell. ConfigError when it does not answer."""
    deadline = time.monotonic() + ELSEWHERE_S
    while not answers():
        if time.monotonic() > deadline:
            raise ConfigError(
                f"{service} at {without_password(address)} does not answer: is it running, and is {option} right? "
                f"Without {option}, `headwater up` starts its own"
            )
        time.sleep(0.2)
    return f"{without_password(address)} (not ours)"


def without_password(address: str) -> str:
    """An address that may be shown."""
    parts = urlsplit(address) if "://" in address else None
    if parts is None or "@" not in parts.netloc:
        return address
    return parts._replace(netloc="***@" + parts.netloc.rsplit("@", 1)[1]).geturl()
