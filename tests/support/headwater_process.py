"""`headwater` commands in processes of their own that start at once: forked from a server that has imported what they need.

Importing takes a second of CPU time, and a test file starts up to fifty processes. They are killed and signalled like any
other; bench/faults/ starts `headwater` as a user does.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from infra.ops.embedded.servers.leash import PR_SET_PDEATHSIG

PRELOADED = (
    "infra.ops.cli",
    "consumers.warehouse.app",
    "consumers.warehouse.history.projecting",
    "consumers.warehouse.loader.loop",
    "consumers.warehouse.loader.rows",
    "consumers.warehouse.privacy",
    "consumers.warehouse.schema.migrating",
    "consumers.warehouse.verification.schedule",
)
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(list(PRELOADED))


class HeadwaterProcess:
    """A running `headwater WORDS` with this environment added to the test's, its output appended to a log."""

    def __init__(self, words: list[str], environment: Mapping[str, str], log: Path) -> None:
        # Not a daemon process: nothing but the test may end it.
        self._process = CONTEXT.Process(target=_run, args=(words, dict(os.environ) | dict(environment), log))
        self._process.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float = 30.0) -> int:
        """Wait for its end and return its exit code. TimeoutError where it still runs."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise TimeoutError(f"process {self.pid} has not ended within {seconds:.0f} s")
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self._process.kill()


def _run(words: list[str], environment: dict[str, str], log: Path) -> None:
    """Become the command: its environment, its output, its words. It ends with the test run, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.environ.clear()
    os.environ.update(environment)
    with log.open("ab", buffering=0) as output:
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
    from infra.ops.cli import main

    sys.argv = ["headwater", *words]
    main()
