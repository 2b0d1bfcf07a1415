"""The supervisor starts services in order, restarts crashed ones, gives up where required, and leaves no process."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from infra.errors import EXIT_CONFIG, EXIT_HALTED, ConfigError
from infra.ops.embedded.servers.child import Program, StartFailed
from infra.ops.embedded.supervisor import BACK_OFF, PATIENT_STARTS, Service, ServiceState, Step, Supervisor

RUNS = "import time; print('up', flush=True); time.sleep(600)"


class SupervisedServices:
    """Small programs, printed lines, and a supervisor that is stopped at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self.supervisor = Supervisor((), self.print_line)

    def print_line(self, name: str, text: str) -> None:
        """Record a line."""
        self.lines.append(f"{name}: {text}")

    def service(self, name: str, code: str = RUNS, needs: tuple[str, ...] = (), tier: int = 0) -> Service:
        """A Python program that answers once its log says `up`."""
        log = self.folder / f"{name}.log"
        return Service(
            name,
            lambda: Program(name, (sys.executable, "-c", code), log),
            lambda: log.exists() and "up" in log.read_text(),
            needs=needs,
            tier=tier,
        )

    def start(self, *parts: Service | Step) -> Supervisor:
        """Start parts; returns when all are ready."""
        self.supervisor = Supervisor(parts, self.print_line)
        self.until(lambda: self.supervisor.ready)
        return self.supervisor

    def until(self, condition: Callable[[], bool], patience_s: float = 20.0) -> None:
        """Tick until the condition holds."""
        deadline = time.monotonic() + patience_s
        self.supervisor.run_until(lambda: condition() or time.monotonic() > deadline)
        assert condition(), self.lines


@pytest.fixture
def services(tmp_path: Path) -> Iterator[SupervisedServices]:
    """A set of services that is stopped at the end."""
    services = SupervisedServices(tmp_path)
    yield services
    services.supervisor.stop(patience=0)


def test_parts_start_in_the_order_of_their_needs(services: SupervisedServices) -> None:
    """A step runs after the service it needs has answered, and before the service that needs it starts."""
    order: list[str] = []
    step = Step("tables", lambda: order.append("tables") or "made", ("store",))  # type: ignore[func-returns-value]  # in a lambda
    services.start(services.service("reader", needs=("tables",)), step, services.service("store"))
    assert [line.split(":")[0] for line in services.lines] == ["store", "tables", "reader"]
    assert order == ["tables"]


def test_killed_service_starts_again(services: SupervisedServices) -> None:
    """After kill -9 the service runs again, with another process id."""
    supervisor = services.start(services.service("worker"))
    status = supervisor.statuses[0]
    first = status.pid
    os.kill(first, signal.SIGKILL)
    services.until(lambda: status.restarts == 1 and status.state is ServiceState.READY)
    assert status.pid not in {0, first}
    assert any("signal 9" in line and "starts again in 0.2 s" in line for line in services.lines)


def test_pauses_grow_up_to_a_limit(services: SupervisedServices) -> None:
    """A service that crashes again and again is started ever more rarely."""
    flag = services.folder / "crash"
    code = f"import sys, time; from pathlib import Path\nif Path({str(flag)!r}).exists(): sys.exit(1)\n{RUNS}"
    supervisor = services.start(services.service("worker", code))
    flag.touch()
    status = supervisor.statuses[0]
    os.kill(status.pid, signal.SIGKILL)
    services.until(lambda: status.failures == 3)
    assert [line.rsplit(" in ")[-1] for line in services.lines if "starts again" in line] == ["0.2 s", "0.4 s", "0.8 s"]
    status.failures = 40
    supervisor._schedule_restart(status, "again")
    assert f"{BACK_OFF.longest_s} s" in services.lines[-1]


@pytest.mark.parametrize(("code", "state"), [(EXIT_HALTED, ServiceState.HALTED), (EXIT_CONFIG, ServiceState.REFUSED)])
def test_some_ends_are_not_restarted(services: SupervisedServices, code: int, state: ServiceState) -> None:
    """A service that halted itself, or refuses its configuration, is not restarted, and the end of its log is printed."""
    flag = services.folder / "end"
    program = f"""import sys, time
from pathlib import Path
print('up', flush=True)
while not Path({str(flag)!r}).exists(): time.sleep(0.01)
print('because', flush=True)
sys.exit({code})
"""
    supervisor = services.start(services.service("worker", program))
    flag.touch()
    services.until(lambda: supervisor.statuses[0].state is state)
    assert "because" in services.lines[-1]
    assert supervisor.statuses[0].pid == 0


def test_first_start_fails_with_the_reason(services: SupervisedServices) -> None:
    """A service that never answers fails the start, with the end of its log."""
    with pytest.raises(StartFailed, match=f"exit code 3.*, {PATIENT_STARTS} times:\nno luck"):
        services.start(services.service("worker", "import sys; print('no luck'); sys.exit(3)"))


def test_refused_configuration_ends_the_first_start_at_once(services: SupervisedServices) -> None:
    """A configuration error at the start is raised without a retry."""
    with pytest.raises(ConfigError, match="worker refuses its configuration:\nset HEADWATER_X"):
        services.start(services.service("worker", f"import sys; print('set HEADWATER_X'); sys.exit({EXIT_CONFIG})"))
    assert not services.lines


def test_failing_step_ends_the_start(services: SupervisedServices) -> None:
    """What a step raises comes out of the tick."""

    def fail() -> str:
        raise ConfigError("no such table")

    with pytest.raises(ConfigError, match="no such table"):
        services.start(Step("tables", fail))


def test_silent_service_is_killed(services: SupervisedServices) -> None:
    """A service that runs but never answers is ended, and the start fails."""
    log = services.folder / "mute.log"
    program = Program("mute", (sys.executable, "-c", "import time; print('hm', flush=True); time.sleep(600)"), log)
    with pytest.raises(StartFailed, match="did not answer within 0 s"):
        services.start(Service("mute", lambda: program, lambda: False, start_s=0.2))


def test_stop_ends_higher_tiers_first_and_leaves_nothing(services: SupervisedServices) -> None:
    """Higher tiers stop before lower ones, and every process ends."""
    order = services.folder / "order"
    code = """import pathlib, signal, sys, time
def end(*_):
    with pathlib.Path({order!r}).open('a') as file: file.write({name!r} + ' ')
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print('up', flush=True)
while True: time.sleep(1)
"""
    make = partial(code.format, order=str(order))
    supervisor = services.start(
        services.service("store", make(name="store"), tier=0),
        services.service("door", make(name="door"), tier=2),
        services.service("worker", make(name="worker"), tier=1),
    )
    pids = [status.pid for status in supervisor.statuses]
    supervisor.stop()
    assert order.read_text().split() == ["door", "worker", "store"]
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_log_of_a_running_service_is_kept_short(services: SupervisedServices) -> None:
    """A service's log stays bounded."""
    supervisor = services.start(services.service("worker"))
    log = services.folder / "worker.log"
    with log.open("ab") as file:
        file.write(b"x" * 6_000_000)
    supervisor._log_check = 0
    supervisor.tick()
    assert log.stat().st_size < 3_000_000
