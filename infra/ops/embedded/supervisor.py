"""Starts services and one-time steps by their dependencies, in parallel where possible, and restarts services that end.

One loop in one thread, because a child process is bound to the thread that started it (see servers/leash.py). Call `tick`
often.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from infra.errors import EXIT_CONFIG, EXIT_HALTED, ConfigError
from infra.ops.embedded.servers.child import Child, Program, StartFailed, truncate_log
from infra.processes.back_off import BackOff

BACK_OFF = BackOff(0.2, 15.0)
STEADY_S = 30.0
"""A service that was ready this long restarts after the shortest pause."""
PATIENT_STARTS = 4
"""Failures of one service before all were ready once, after which the start fails."""
LOG_CHECK_S = 30.0
ASK_EVERY_S = 0.1
"""Interval of readiness probes; more frequent ones would slow the starting services down."""


@dataclass(frozen=True)
class Service:
    """A program that runs for as long as the supervisor does.

    `program` is called at each start. Services of higher `tier` are stopped first. `url` and `port` are where it listens.
    """

    name: str
    program: Callable[[], Program]
    answers: Callable[[], bool]
    url: str = ""
    port: int = 0
    needs: tuple[str, ...] = ()
    tier: int = 0
    start_s: float = 60.0
    stop_s: float = 10.0


@dataclass(frozen=True)
class Step:
    """A one-time action in its own thread. `run` returns a status text."""

    name: str
    run: Callable[[], str]
    needs: tuple[str, ...] = ()


class ServiceState(StrEnum):
    """State of a service."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    PAUSING = "pausing"
    HALTED = "halted"
    REFUSED = "refused"


@dataclass
class Status:
    """Current state of one service."""

    service: Service
    state: ServiceState = ServiceState.WAITING
    child: Child | None = None
    since: float = 0.0
    failures: int = 0
    restarts: int = 0
    wait_until: float = 0.0
    log: str = ""

    @property
    def pid(self) -> int:
        """Process id; 0 while it does not run."""
        return self.child.pid if self.child and self.state in {ServiceState.STARTING, ServiceState.READY} else 0


@dataclass
class _StepRun:
    step: Step
    thread: threading.Thread | None = None
    message: str | None = None
    error: BaseException | None = None
    counted: bool = False


@dataclass
class Supervisor:
    """Runs services and steps. `print_line` prints a name and a text; `changed` is called when a pid or state changes;
    `diagnose` may return a cause of failures, e.g. a full disk."""

    parts: Sequence[Service | Step]
    print_line: Callable[[str, str], None]
    changed: Callable[[Sequence[Status]], None] = lambda _: None
    diagnose: Callable[[], str] = lambda: ""
    clock: Callable[[], float] = time.monotonic
    ready: bool = False
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.clock()
        self.statuses = [Status(part) for part in self.parts if isinstance(part, Service)]
        self._step_runs = [_StepRun(part) for part in self.parts if isinstance(part, Step)]
        self._log_check = self._began + LOG_CHECK_S

    def tick(self) -> None:
        """Check every service and step once. ConfigError or StartFailed where the first start is impossible."""
        for job in self._step_runs:
            self._check_step(job)
        for status in self.statuses:
            self._check_service(status)
        if not self.ready and all(self._is_up(part.name) for part in self.parts):
            self.ready = True
        if self.clock() > self._log_check:
            self._log_check = self.clock() + LOG_CHECK_S
            for status in self.statuses:
                if status.child:
                    truncate_log(status.child.program.log)

    def run_until(self, enough: Callable[[], bool]) -> None:
        """Tick until `enough()`."""
        while not enough():
            self.tick()
            time.sleep(0.03)

    def stop(self, *, patience: float = 1.0) -> None:
        """Stop all services, highest tier first, a tier in parallel. `patience` multiplies their stop times; 0 kills."""
        for tier in sorted({status.service.tier for status in self.statuses}, reverse=True):
            running = [s for s in self.statuses if s.service.tier == tier and s.child is not None]
            for status in running:
                if status.child and patience:
                    status.child.terminate()
            for status in running:
                if status.child:
                    status.child.stop(status.service.stop_s * patience)
                status.child, status.state = None, ServiceState.WAITING
        self.changed(self.statuses)

    # -- steps

    def _check_step(self, job: _StepRun) -> None:
        if job.thread is None and self._needs_met(job.step.needs):
            # A daemon: Ctrl-C must not wait for a request's timeout.
            job.thread = threading.Thread(target=self._run_step, args=(job,), name=job.step.name, daemon=True)
            job.thread.start()
        if job.error is not None:
            raise job.error
        if job.message is not None and not job.counted:
            job.counted = True
            self.print_line(job.step.name, f"{job.message} {self._elapsed()}".strip())

    @staticmethod
    def _run_step(job: _StepRun) -> None:
        try:
            job.message = job.step.run()
        except BaseException as error:
            job.error = error

    # -- services

    def _check_service(self, status: Status) -> None:
        now = self.clock()
        first = status.state is ServiceState.WAITING and self._needs_met(status.service.needs)
        if first or (status.state is ServiceState.PAUSING and now >= status.wait_until):
            self._start(status)
        elif status.state in {ServiceState.STARTING, ServiceState.READY} and status.child is not None:
            code = status.child.exit_code()
            if code is not None:
                self._handle_exit(status, code)
            elif status.state is ServiceState.STARTING and self._has_answered(status, now):
                self._mark_ready(status)
            elif status.state is ServiceState.STARTING and now - status.since > status.service.start_s:
                status.log = status.child.tail()
                status.child.kill()
                self._schedule_restart(status, f"did not answer within {status.service.start_s:.0f} s")

    def _start(self, status: Status) -> None:
        try:
            status.child = Child(status.service.program())
        except (OSError, StartFailed, ConfigError) as error:
            if isinstance(error, ConfigError) and not self.ready:
                raise
            status.child = None
            self._schedule_restart(status, str(error))
            return
        status.state, status.since = ServiceState.STARTING, self.clock()
        self.changed(self.statuses)

    @staticmethod
    def _has_answered(status: Status, now: float) -> bool:
        if now < status.wait_until:
            return False
        status.wait_until = now + ASK_EVERY_S
        return status.service.answers()

    def _mark_ready(self, status: Status) -> None:
        status.state, status.since = ServiceState.READY, self.clock()
        self.print_line(
            status.service.name, f"{status.service.url or 'ready'} {'' if self.ready else self._elapsed()}".rstrip()
        )
        self.changed(self.statuses)

    def _handle_exit(self, status: Status, code: int) -> None:
        child = status.child
        status.log = child.tail() if child else ""
        if child:
            child.kill()  # processes that it started and left behind
        if code == EXIT_CONFIG:
            if not self.ready:
                raise ConfigError(f"{status.service.name} refuses its configuration:\n{status.log}")
            self._give_up(status, ServiceState.REFUSED, f"refuses its configuration and is not started again:\n{status.log}")
        elif code == EXIT_HALTED:
            self._give_up(
                status,
                ServiceState.HALTED,
                f"halted itself, because going on would do harm, and is not started again. It says:\n{status.log}\n"
                "Do what it says, then stop the house (Ctrl-C) and start it again",
            )
        else:
            self._schedule_restart(status, f"ended (signal {-code})" if code < 0 else f"ended (exit code {code})")

    def _give_up(self, status: Status, state: ServiceState, why: str) -> None:
        status.state, status.child = state, None
        self.print_line(status.service.name, why)
        self.changed(self.statuses)

    def _schedule_restart(self, status: Status, why: str) -> None:
        now = self.clock()
        if status.state is ServiceState.READY and now - status.since > STEADY_S:
            status.failures = 0
        status.failures += 1
        status.restarts += 1
        if cause := self.diagnose():
            why = f"{why}; {cause}"
        if not self.ready and status.failures >= PATIENT_STARTS:
            raise StartFailed(f"{status.service.name} {why}, {status.failures} times:\n{status.log}")
        pause = BACK_OFF.pause_s(status.failures)
        status.state, status.wait_until, status.child = ServiceState.PAUSING, now + pause, None
        self.print_line(status.service.name, f"{why}, starts again in {pause:.1f} s")
        self.changed(self.statuses)

    # -- needs

    def _needs_met(self, needs: tuple[str, ...]) -> bool:
        return all(self._is_up(name) for name in needs)

    def _is_up(self, name: str) -> bool:
        for status in self.statuses:
            if status.service.name == name:
                # A service that halted at its first start stays halted; the others do not wait for it.
                return status.state in {ServiceState.READY, ServiceState.HALTED} or (
                    self.ready and status.state is not ServiceState.WAITING
                )
        return all(job.message is not None for job in self._step_runs if job.step.name == name)

    def _elapsed(self) -> str:
        return f"({self.clock() - self._began:.1f} s)"
