"""One of several collector processes on one port (`headwater collect --processes`)."""

import sys
from dataclasses import dataclass

import uvloop

from infra.errors import EXIT_CONFIG, ConfigError
from infra.http.listening import listen_once
from infra.processes.children import ProcessGroup
from infra.settings import load_settings
from infra.telemetry.logs import configure_logs
from streams.collector.http.options import CollectorOptions
from streams.collector.http.serving import ProcessPlace, SpoolLimits, serve


@dataclass(frozen=True)
class CollectorProcess:
    """The work of one process; picklable. Called with the process's number."""

    options: CollectorOptions
    address: tuple[str, int]
    limits: SpoolLimits
    processes: int

    def __call__(self, number: int) -> None:
        """Serve until SIGTERM, SIGINT or the end of the parent process."""
        configure_logs("collector")
        place = ProcessPlace(number, self.processes)
        try:
            uvloop.run(serve(load_settings(), self.options, self.address, self.limits, place))
        except ConfigError as error:
            print(f"headwater: {error}", file=sys.stderr)  # noqa: T201 - the message of a command, as the command line prints it
            sys.exit(EXIT_CONFIG)


def serve_by_processes(process: CollectorProcess) -> None:
    """Serve by several processes until SIGTERM or SIGINT. ConfigError where they cannot start."""
    listen_once(*process.address)
    ProcessGroup(process, process.processes).run()


__all__ = ["CollectorProcess", "serve_by_processes"]
