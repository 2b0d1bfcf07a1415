"""Checks of the services of the running installation, and of the warehouse's rows."""

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from infra.errors import ConfigError
from infra.ops.doctor.check_result import CheckResult, Grade
from infra.ops.embedded.ports import LOOPBACK
from infra.ops.embedded.probes import http_answers, http_get
from infra.settings import Settings

if TYPE_CHECKING:
    from consumers.warehouse.store import Store

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
