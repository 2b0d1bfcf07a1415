"""Headless Chromium, driven by tests/house/senders/visit_pages.js."""

import json
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.npm_packages import SENDERS

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
VISIT_S = 60.0


class BrowserMissing(Exception):
    """There is no browser; the message says what to install."""


@dataclass(frozen=True)
class PageReport:
    """What happened on a page."""

    url: str
    errors: list[str]
    """What its script threw."""
    logs: list[str]
    requests: list[str]
    """Method, address, and the status or the network's error."""


def find_browser() -> str:
    """Return the path of a Chromium. BrowserMissing."""
    for program in PROGRAMS:
        if path := shutil.which(program):
            return path
    raise BrowserMissing("Chromium is missing: install Debian's package `chromium` (`apt-get install chromium`)")


@contextmanager
def visit_pages(urls: Sequence[str], modules: Path) -> Iterator[dict[str, PageReport]]:
    """Open pages at once, each in a session of its own, wait for their scripts and leave them; yield a report by address.

    The browser is closed at the end: until then it sends what pages left to it.
    """
    command = ["node", str(SENDERS / "visit_pages.js"), find_browser(), *urls]
    environment = os.environ | {"NODE_PATH": str(modules)}
    with tempfile.TemporaryFile() as errors:
        driver = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        assert driver.stdin is not None
        assert driver.stdout is not None
        try:
            is_readable, _, _ = select.select([driver.stdout], [], [], VISIT_S)
            line = driver.stdout.readline() if is_readable else b""
            errors.seek(0)
            assert line, f"the browser failed: {errors.read()[-2_000:].decode(errors='replace')}"
            yield {report["url"]: PageReport(**report) for report in json.loads(line)}
        finally:
            driver.stdin.close()
            _end(driver)


def _end(driver: "subprocess.Popen[bytes]") -> None:
    """Wait until the driver has closed its browser, which takes it along where it is killed."""
    try:
        driver.wait(20)
    except subprocess.TimeoutExpired:
        driver.kill()
        driver.wait()


__all__ = ["BrowserMissing", "PageReport", "find_browser", "visit_pages"]
