"""`headwater upkeep`: runs maintenance commands on a schedule, so that no installation needs its own timer.

Each task is a command in a subprocess, which returns its memory at the end. A failed task is retried after an hour.
"""

import json
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from infra.ops.embedded.servers.child import HEADWATER, Child, Program
from infra.ops.embedded.state import write_private
from infra.settings import load_settings
from infra.telemetry.logs import configure_logs, get_logger
from infra.telemetry.metrics import Metrics

DAY_S = 86_400.0
RETRY_S = 3_600.0
POLL_S = 1.0

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Task(NamedTuple):
    """A command, and the seconds after a success when it is due again."""

    words: tuple[str, ...]
    every_s: float

    @property
    def name(self) -> str:
        """The command as typed."""
        return " ".join(self.words)


TASKS = (
    Task(("identity", "tidy"), DAY_S),
    Task(("dead", "destroy-keys"), DAY_S),
    Task(("privacy", "expire"), 7 * DAY_S),
)


class TaskLog:
    """Times of each task's last success, in a file that survives restarts; the time of the first start where there is none."""

    def __init__(self, file: Path, tasks: Sequence[Task], now: float) -> None:
        self._file = file
        try:
            successes = json.loads(file.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            successes = {}
        self._done = {task.name: float(successes.get(task.name, now)) for task in tasks}
        self._tried: dict[str, float] = {}
        self._write()

    def late_s(self, task: Task, now: float) -> float:
        """Return how long the task has been due, seconds; not positive where it is not due."""
        return now - self._done[task.name] - task.every_s

    def is_due(self, task: Task, now: float) -> bool:
        """Whether the task must run, or be retried."""
        return self.late_s(task, now) >= 0 and now - self._tried.get(task.name, 0.0) >= RETRY_S

    def record_run(self, task: Task, now: float, *, succeeded: bool) -> None:
        """Record a run."""
        self._tried[task.name] = now
        if succeeded:
            self._done[task.name] = now
            self._write()

    def _write(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_private(self._file, json.dumps(self._done) + "\n")


def run_task(task: Task, logs: Path, stopping: Callable[[], bool]) -> int:
    """Run the task's command and return its exit code; stop it when `stopping()`. Its output goes to its log."""
    child = Child(Program(task.name, (*HEADWATER, *task.words), logs / f"{'-'.join(task.words)}.log"))
    while (code := child.exit_code()) is None:
        if stopping():
            return child.stop()
        time.sleep(POLL_S)
    return code


@app.command(epilog="Example: headwater upkeep --metrics-port 9106")
def upkeep(metrics_port: Annotated[int | None, typer.Option(help="Port of /metrics.")] = None) -> None:
    """Run `identity tidy` and `dead destroy-keys` every day, `privacy expire` every week, until a signal.

    One process is enough for an installation.
    """
    configure_logs("upkeep")
    settings = load_settings(**({} if metrics_port is None else {"metrics_port": metrics_port}))
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: stopped.append(received))
    metrics = Metrics()
    metrics.serve(settings.metrics_port, settings.metrics_host)
    task_log = TaskLog(settings.state_dir / "upkeep.json", TASKS, time.time())
    while not stopped:
        for task in TASKS:
            now = time.time()
            metrics.set("headwater_upkeep_late_seconds", max(0.0, task_log.late_s(task, now)), task=task.name)
            if stopped or not task_log.is_due(task, now):
                continue
            code = run_task(task, settings.state_dir / "logs", lambda: bool(stopped))
            if stopped:
                break
            task_log.record_run(task, time.time(), succeeded=code == 0)
            if code == 0:
                get_logger().info("done", task=task.name)
            else:
                get_logger().warning("not done, tried again in an hour", task=task.name, exit_code=code)
        time.sleep(POLL_S)
