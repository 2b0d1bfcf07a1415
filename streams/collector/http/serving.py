"""Runs the collector: opens clients, spool and doors, and closes them on SIGTERM or SIGINT."""

import asyncio
import os
import signal
import sys
from dataclasses import dataclass, replace
from typing import NamedTuple

import uvloop

from infra.errors import EXIT_CONFIG, ConfigError
from infra.http.cors import AllowedOrigins
from infra.http.listening import build_runner, listen, listen_once
from infra.payload_keyring import PayloadKeyring
from infra.processes.children import ProcessGroup
from infra.settings import Settings, load_settings
from infra.telemetry.logs import configure_logs, get_logger
from infra.telemetry.metrics import Metrics
from schemas.registry import Registry
from streams.collector.delivery.sink import Sink
from streams.collector.delivery.spool import Spool
from streams.collector.delivery.spool_folders import claim_spool
from streams.collector.http.id_cookie import IdCookies, IdCookieSettings
from streams.collector.http.options import CollectorOptions
from streams.collector.http.server import CollectorApi
from streams.collector.intake import Intake
from streams.collector.signals.choice_rules import ChoiceRules
from streams.collector.signals.policy_source import PolicySource
from streams.collector.signals.storage_consent import StorageRules
from streams.collector.write_keys import WriteKeyStore
from streams.consent.formats.gvl import GvlFolder
from streams.identity.nodes import NodeKeys

PARENT_S = 0.5
"""Seconds between two checks whether the parent process still runs."""


class SpoolLimits(NamedTuple):
    """Seconds that Kafka may take, and bytes that may wait in the spool."""

    budget_s: float
    spool_bytes: int


def build_id_cookies(settings: Settings, cookie: IdCookieSettings, origins: AllowedOrigins) -> IdCookies:
    """Build the cookies with the policy and vendor lists of the consent stage. ConfigError where the policy does not load."""
    rules = StorageRules(PolicySource(settings.policy), GvlFolder(settings.gvl_dir))
    return IdCookies(cookie, rules, origins)


class ProcessPlace(NamedTuple):
    """Which of how many processes of the port this is."""

    number: int = 0
    processes: int = 1


ONLY_PROCESS = ProcessPlace()


async def serve(
    settings: Settings,
    options: CollectorOptions,
    address: tuple[str, int],
    limits: SpoolLimits,
    place: ProcessPlace = ONLY_PROCESS,
) -> None:
    """Serve until SIGTERM or SIGINT. ConfigError where the port is taken, the secret is missing or the policy does not load."""
    if options.id_cookie is not None:
        options = replace(options, id_cookies=build_id_cookies(settings, options.id_cookie, options.origins))
    metrics = Metrics()
    payload_keys = PayloadKeyring(settings.keyring_dir, settings.master)
    write_keys = WriteKeyStore(settings.write_keys_file)
    rules = ChoiceRules(PolicySource(settings.policy), write_keys)
    intake = Intake(Registry(settings.contracts), payload_keys, NodeKeys.of(settings), metrics, rules)
    folder = claim_spool(settings.state_dir, place.number, place.processes)
    sink = Sink(settings, Spool(folder.path, payload_keys, limits.spool_bytes), metrics, limits.budget_s)
    api = CollectorApi(intake, sink, write_keys, metrics, options)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = build_runner(api.app())
    await runner.setup()
    await sink.start()
    try:
        await listen(runner, *address, reuse_port=place.processes > 1 or None)
        get_logger().info("serving", host=address[0], port=address[1], process=place.number)
        await _wait_for_stop(stop, place)
    finally:
        await runner.cleanup()
        await sink.stop()
        folder.release()
        get_logger().info("stopped", process=place.number)


async def _wait_for_stop(stop: asyncio.Event, place: ProcessPlace) -> None:
    """Wait for the signal, and for the end of the parent process where this is one of several: nobody else would end it."""
    parent = os.getppid()
    while not stop.is_set():
        try:
            await asyncio.wait_for(stop.wait(), PARENT_S if place.processes > 1 else None)
        except TimeoutError:
            if os.getppid() != parent:
                get_logger().error("the parent process died", process=place.number)
                return


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


__all__ = ["CollectorProcess", "ProcessPlace", "SpoolLimits", "serve", "serve_by_processes"]
