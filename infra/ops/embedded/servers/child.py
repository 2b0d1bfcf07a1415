"""A child process in its own session that dies with this one, its output in a bounded log file."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from infra.ops.embedded.ports import describe_owner, is_free

HEADWATER = (sys.executable, "-P", "-c", "from infra.ops.cli import main; main()")
"""The command line of `headwater` in this environment."""
LEASH = Path(__file__).with_name("leash.py")
LOG_BYTES = 5_000_000  # a larger log is truncated to half of this


class StartFailed(Exception):
    """A program ended, or did not answer in time. The message includes the end of its log."""


@dataclass(frozen=True)
class Program:
    """A command and its log file. `environment` extends this process's; `port` is the port it will listen on, 0 = none."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int = 0


class Child:
    """A running program. Create it in a thread that outlives it: the kernel kills the child with that thread (see leash.py).

    Its output goes to its log, or to `output`. StartFailed where its port is taken, OSError where it cannot be executed.
    """

    def __init__(self, program: Program, *, output: IO[bytes] | None = None) -> None:
        if program.port and not is_free(program.port):
            # Checked before the start: the port's owner might answer the child's probes.
            raise StartFailed(f"port {program.port} for {program.name} is taken{describe_owner(program.port)}")
        self.program = program
        program.log.parent.mkdir(parents=True, exist_ok=True)
        truncate_log(program.log)
        with program.log.open("ab") as log:
            self._process = self._spawn(output or log)

    def _spawn(self, output: IO[bytes]) -> subprocess.Popen[bytes]:
        leash = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid())]
        # Its own session: Ctrl-C on the terminal reaches the parent only, which stops the children in order.
        return subprocess.Popen(  # noqa: S603 - the command comes from our own code
            [*leash, *self.program.command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **self.program.environment},
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Its process id (leash.py becomes the command, so this is the command's)."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """Return its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Send SIGTERM without waiting."""
        if self._process.poll() is None:
            self._process.terminate()

    def stop(self, patience_s: float = 10.0) -> int:
        """Send SIGTERM, kill its session after `patience_s`, and return its exit code."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.send_signal(signal.SIGCONT)  # a stopped process handles SIGTERM only once it continues
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self.kill()
        self._kill_session()
        return self._process.wait()

    def kill(self) -> None:
        """Send SIGKILL to its session: the child and everything it started."""
        self._kill_session()
        self._process.wait()

    def _kill_session(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # no process is left (macOS raises the latter for zombies)
            os.killpg(self._process.pid, signal.SIGKILL)

    def tail(self, lines: int = 8) -> str:
        """Return the last lines of its log."""
        try:
            with self.program.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 8_192))
                return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def wait_ready(self, answers: Callable[[], bool], patience_s: float) -> None:
        """Return once `answers()`. StartFailed where the child ends before, or does not answer within `patience_s`."""
        deadline = time.monotonic() + patience_s
        while not answers():
            code = self.exit_code()
            if code is not None:
                raise StartFailed(f"{self.program.name} ended with exit code {code}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise StartFailed(f"{self.program.name} does not answer after {patience_s:.0f} s:\n{self.tail()}")
            time.sleep(0.02)


def truncate_log(log: Path) -> None:
    """Truncate a log larger than LOG_BYTES to its last half, so that logs do not fill the disk."""
    if log.exists() and log.stat().st_size > LOG_BYTES:
        with log.open("rb") as file:
            file.seek(-LOG_BYTES // 2, os.SEEK_END)
            tail = file.read()
        log.write_bytes(tail)
