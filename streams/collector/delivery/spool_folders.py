"""The folder of each process's spool: locked while its process runs; the first process takes over what others have left."""

import fcntl
import os
import time
from pathlib import Path
from typing import IO

from infra.errors import ConfigError
from infra.telemetry.logs import get_logger

LOCK_S = 5.0
"""Seconds that a predecessor may take to end."""
POLL_S = 0.1
LOCK = "lock"


class SpoolFolder:
    """One process's folder, locked until `release`."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = path
        self._lock = _lock(path, LOCK_S)
        if self._lock is None:
            raise ConfigError(f"another collector uses the spool {path}: give each a HEADWATER_STATE_DIR of its own")

    def adopt(self, folder: Path) -> int:
        """Move another folder's segments behind the own ones and return how many; none where its process runs."""
        lock = _lock(folder, 0)
        if lock is None:
            get_logger().warning("a spool of a process that is none of ours is in use", folder=folder.name)
            return 0
        last = max((int(file.stem) for file in self.path.glob("*.spool")), default=0)
        segments = sorted(folder.glob("*.spool"))
        for number, file in enumerate(segments, last + 1):
            file.rename(self.path / f"{number:012d}.spool")
        _sync_folder(self.path)
        lock.close()
        return len(segments)

    def release(self) -> None:
        """Let the next process use the folder."""
        if self._lock is not None:
            self._lock.close()


def claim_spool(state_dir: Path, number: int, processes: int) -> SpoolFolder:
    """Return the folder of process `number` of `processes`. The first one takes over the folders of numbers that no longer run.

    ConfigError where another collector uses the folder.
    """
    numbered = processes > 1
    folder = SpoolFolder(state_dir / (f"spool-{number}" if numbered else "spool"))
    if number == 0:
        running = {f"spool-{index}" for index in range(processes)} if numbered else {"spool"}
        for other in sorted(state_dir.glob("spool*")):
            if (
                other.is_dir()
                and other.name not in running
                and any(other.glob("*.spool"))
                and (segments := folder.adopt(other))
            ):
                get_logger().info("spool taken over", folder=other.name, segments=segments)
    return folder


def _lock(folder: Path, seconds: float) -> IO[bytes] | None:
    """Return the locked file of a folder; None where another process has had it all the time."""
    handle = (folder / LOCK).open("wb")
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                handle.close()
                return None
            time.sleep(POLL_S)
        else:
            return handle


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


__all__ = ["SpoolFolder", "claim_spool"]
