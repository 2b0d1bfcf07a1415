"""Java classes that are loaded, linked and stored once per user, so that a program starts in half the time.

This is Java's ahead-of-time cache (JEP 483). Java itself checks that a cache belongs to its runtime, flags and jars, and starts
without one that does not.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from infra.ops.embedded.servers.child import StartFailed

CREATE_S = 120
"""How long Java may take to write a cache, seconds."""


@dataclass(frozen=True)
class ClassCache:
    """The cache of one program, in a folder of its own. `flags` and `jars` must be those that the program runs with."""

    folder: Path
    java: Path
    flags: Sequence[str]
    jars: Sequence[Path]

    @property
    def file(self) -> Path:
        """Its file. Another runtime, other flags or other jars have another one."""
        parts = [*self.flags, *(f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in (self.java, *self.jars))]
        return self.folder / f"{self._runtime}-{_hash(*parts)}.aot"

    @property
    def _runtime(self) -> str:
        return _hash(str(self.java))

    def options(self, train: Callable[[Sequence[str]], None]) -> list[str]:
        """Return Java's options that use the cache, created if it is missing; none where that is impossible.

        `train` runs the program once with the options that it is given, to its orderly end. It may raise StartFailed.
        """
        try:
            if not self.file.exists():
                self._create(train)
            # An empty file records that a cache could not be created; while another process creates it there is none.
            return [f"-XX:AOTCache={self.file}"] if self.file.exists() and self.file.stat().st_size else []
        except OSError as error:
            _print(f"no cache of Java classes in {self.folder}, so starts take longer: {error.strerror or error}")
            return []

    def _create(self, train: Callable[[Sequence[str]], None]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with _lock(self.folder / ".lock") as is_held:
            if not is_held or self.file.exists():
                return
            _print("preparing quick starts of Kafka, once, about ten seconds")
            with tempfile.TemporaryDirectory(prefix="partial-", dir=self.folder) as staging:
                cache = Path(staging) / "classes.aot"
                try:
                    self._record(train, cache)
                except (StartFailed, subprocess.SubprocessError) as error:
                    _print(f"Java's classes cannot be cached, so starts take longer: {error}")
                    cache.write_bytes(b"")
                for old in self.folder.glob(f"{self._runtime}-*.aot"):
                    old.unlink()
                cache.replace(self.file)

    def _record(self, train: Callable[[Sequence[str]], None], cache: Path) -> None:
        recording = cache.with_suffix(".aotconf")
        train(["-XX:AOTMode=record", f"-XX:AOTConfiguration={recording}"])
        options = ["-XX:AOTMode=create", f"-XX:AOTConfiguration={recording}", f"-XX:AOTCache={cache}"]
        command = [str(self.java), *self.flags, *options, "-cp", os.pathsep.join(map(str, self.jars))]
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=CREATE_S)  # noqa: S603 - our own words
        if run.returncode or not cache.exists():
            raise StartFailed((run.stdout + run.stderr)[-500:])


@contextmanager
def _lock(file: Path) -> Iterator[bool]:
    """Yield whether this process holds the lock: the others do not wait, because they can start without a cache."""
    with file.open("w") as lock:
        is_held = False
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_held = True
        yield is_held


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _print(text: str) -> None:
    sys.stderr.write(f"headwater: {text}\n")
    sys.stderr.flush()
