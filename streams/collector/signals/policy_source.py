"""The consent policy file, reloaded when it changes."""

import time
from pathlib import Path

from infra.errors import ConfigError
from infra.telemetry.logs import get_logger
from streams.consent.policy import PACKAGED, Policy, load_policy

CHECK_S = 1.0


class PolicySource:
    """The current policy. ConfigError where the file does not load at the start."""

    def __init__(self, file: Path | None) -> None:
        self._file = file or PACKAGED
        self._checked_at = time.monotonic()
        self._stamp = self._file_stamp()
        self._policy = load_policy(self._file)

    def policy(self) -> Policy:
        """Return the newest valid policy: a mistake in the file must not stop the collector."""
        now = time.monotonic()
        if now - self._checked_at >= CHECK_S:
            self._checked_at = now
            stamp = self._file_stamp()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._policy = load_policy(self._file)
                except ConfigError as error:
                    get_logger().error("the consent policy cannot be read, the one before stays in force", error=str(error))
        return self._policy

    def _file_stamp(self) -> tuple[int, int, int]:
        try:
            status = self._file.stat()
        except OSError:
            return (0, 0, 0)
        return status.st_mtime_ns, status.st_ino, status.st_size


__all__ = ["PolicySource"]
