"""One child process: on a leash, in a session of its own, its output in a bounded log file."""

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
"""The program itself, of this environment."""
LEASH = Path(__file__).with_name("leash.py")
LOG_BYTES = 5_000_000  # what is kept of the previous run's log at a start


class StartFailed(Exception):
    """A program ended, or did not answer in time; the message carries the end of its log."""


@dataclass(frozen=True)
class Program:
    """What to run and where its output goes. `environment` is added to ours; `port` is where it will listen, 0 = nowhere."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int = 0


class Child:
    """A running program. Create it in a thread that outlives it: the leash is tied to that thread.

    Its output goes to its log, or to `output`. Raises NotReady when its port is taken, OSError when it cannot be run.
    """

    def __init__(self, program: Program, *, output: IO[bytes] | None = None) -> None:
        if program.port and not is_free(program.port):
            # Said before the start: whoever has the port might answer for the child.
            raise StartFailed(f"port {program.port} for {program.name} is taken{describe_owner(program.port)}")
        self.program = program
        program.log.parent.mkdir(parents=True, exist_ok=True)
        truncate_log(program.log)
        with program.log.open("ab") as log:
            self._process = self._spawn(output or log)

    def _spawn(self, output: IO[bytes]) -> subprocess.Popen[bytes]:
        leash = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid())]
        # A session of its own: Ctrl-C on the terminal reaches us alone, and we stop the children in order.
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
        """Its process id (the leash becomes the command, so this is the command's)."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to end; does not wait."""
        if self._process.poll() is None:
            self._process.terminate()

    def stop(self, patience_s: float = 10.0) -> int:
        """Ask it to end, and end it and whatever it started when it does not in time; its exit code."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.send_signal(signal.SIGCONT)  # one that was stopped could not hear us
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self.kill()
        self._kill_session()
        return self._process.wait()

    def kill(self) -> None:
        """kill -9 of the child and of whatever it started."""
        self._kill_session()
        self._process.wait()

    def _kill_session(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # nobody is left (macOS says the latter of zombies)
            os.killpg(self._process.pid, signal.SIGKILL)

    def tail(self, lines: int = 8) -> str:
        """The last lines of its log."""
        try:
            with self.program.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 8_192))
                return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def wait_ready(self, answers: Callable[[], bool], patience_s: float) -> None:
        """Return once `answers()`; NotReady when the child ends before, or time is up."""
        deadline = time.monotonic() + patience_s
        while not answers():
            code = self.exit_code()
            if code is not None:
                raise StartFailed(f"{self.program.name} ended with exit code {code}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise StartFailed(f"{self.program.name} does not answer after {patience_s:.0f} s:\n{self.tail()}")
            time.sleep(0.02)


def truncate_log(log: Path) -> None:
    """Keep the last LOG_BYTES of a log, so that restarts do not fill the disk."""
    if log.exists() and log.stat().st_size > LOG_BYTES:
        with log.open("rb") as file:
            file.seek(-LOG_BYTES // 2, os.SEEK_END)
            tail = file.read()
        log.write_bytes(tail)
