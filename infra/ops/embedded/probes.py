"""Probes of servers, each bounded to about a second."""

import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

from infra.errors import ConfigError
from infra.ops.embedded.ports import is_served

EXTERNAL_S = 10.0


def http_get(url: str) -> str:
    """Return the body of a page; empty where it does not answer 200 within a second. Proxies are bypassed."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with suppress(OSError, ValueError), direct.open(url, timeout=1) as answer:
        return str(answer.read().decode(errors="replace"))
    return ""


def http_answers(url: str, containing: str = "") -> bool:
    """Whether a page answers 200 with a body that contains this text."""
    body = http_get(url)
    return bool(body) and containing in body


def is_served_and_answers(port: int, answers: Callable[[], bool]) -> bool:
    """Whether a server listens on the port (the cheap probe first) and answers."""
    return is_served(port) and answers()


def wait_for_external(service: str, address: str, option: str, answers: Callable[[], bool]) -> str:
    """Wait up to EXTERNAL_S for an external server; return a status text. ConfigError where it does not answer."""
    deadline = time.monotonic() + EXTERNAL_S
    while not answers():
        if time.monotonic() > deadline:
            raise ConfigError(
                f"{service} at {without_password(address)} does not answer: is it running, and is {option} right? "
                f"Without {option}, `headwater up` starts its own"
            )
        time.sleep(0.2)
    return f"{without_password(address)} (not ours)"


def without_password(address: str) -> str:
    """Return an address with its password masked."""
    parts = urlsplit(address) if "://" in address else None
    if parts is None or "@" not in parts.netloc:
        return address
    return parts._replace(netloc="***@" + parts.netloc.rsplit("@", 1)[1]).geturl()
