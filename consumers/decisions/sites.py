"""The groups of sites whose refusals count for a request: that of its page, or all known ones without a page."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from infra.errors import ConfigError
from infra.parsing.site import page_site
from infra.telemetry.logs import get_logger
from streams.collector.write_keys import read_keys
from streams.consent.policy import Policy

CHECK_S = 1.0


class SiteGroups:
    """Groups of sites under one policy. The file of write keys is reloaded when it changes."""

    def __init__(
        self, policy: Policy, write_keys: Path, origins: Iterable[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._policy = policy
        self._file = write_keys
        self._clock = clock
        pages = {policy.group(site) for origin in origins if (site := page_site(origin))}
        self._configured = pages | set(policy.memory.site_groups)
        self._known: tuple[str, ...] = ()
        self._stamp: tuple[int, int] | None = None
        self._next_check = clock()

    def groups(self, origin: str) -> tuple[str, ...]:
        """Return the group of an origin's host; without an origin those of every write key, allowed origin and policy group.

        Empty where no site is known.
        """
        site = page_site(origin) if origin else ""
        return (self._policy.group(site),) if site else self._all_groups()

    def _all_groups(self) -> tuple[str, ...]:
        now = self._clock()
        if now >= self._next_check:
            self._next_check = now + CHECK_S
            stamp = self._file_stamp()
            if stamp != self._stamp:
                self._stamp = stamp
                self._load()
        return self._known

    def _file_stamp(self) -> tuple[int, int]:
        try:
            status = self._file.stat()
        except OSError:
            return (0, 0)
        return status.st_mtime_ns, status.st_ino

    def _load(self) -> None:
        try:
            # Revoked keys too: refusals made under them still count.
            keys = read_keys(self._file)
        except (ConfigError, OSError) as error:
            get_logger().error("write keys cannot be read, the sites known before count", error=str(error))
            return
        self._known = tuple(sorted(self._configured | {self._policy.group(key.site) for key in keys}))


__all__ = ["SiteGroups"]
