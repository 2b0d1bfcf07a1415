"""Apache Kafka's jars, pinned by name, version and SHA-256 in kafka-jars.json and downloaded once per user.

`python -m infra.ops.embedded.servers.jars VERSION` resolves another version and rewrites kafka-jars.json.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from infra.errors import ConfigError
from infra.processes.file_lock import exclusive

LOCK_FILE = Path(__file__).with_name("kafka-jars.json")
LOGGING = "org.apache.logging.log4j:log4j-slf4j-impl"  # part of Kafka's own distribution; without it there is no log
CONNECTIONS = 6
TIMEOUT_S = 60


@dataclass(frozen=True)
class Jar:
    """One jar of the lock file: its Maven coordinates and the hash of its bytes."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """Its file name in the cache."""
        return f"{self.artifact}-{self.version}.jar"


def cache_dir() -> Path:
    """Return the folder of downloads: `$XDG_CACHE_HOME/headwater`, else `~/.cache/headwater`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "headwater"


def read_lock() -> tuple[str, list[Jar]]:
    """Return (Kafka's version, its jars) of the lock file."""
    content = json.loads(LOCK_FILE.read_text())
    parts = [(name.split(":"), sha256) for name, sha256 in content["jars"].items()]
    return content["kafka"], [Jar(group, artifact, version, sha256) for (group, artifact, version), sha256 in parts]


def missing_jars(folder: Path, jars: list[Jar]) -> list[Jar]:
    """Return the jars that are not in `folder`. A jar is moved there whole and verified, so its presence suffices."""
    return [jar for jar in jars if not (folder / jar.file_name).exists()]


def jar_folder() -> Path:
    """Return the folder of the pinned version's jars."""
    return cache_dir() / f"kafka-{read_lock()[0]}"


def classpath() -> list[Path]:
    """Return the jars, downloaded if they are missing. ConfigError with advice where that fails."""
    version, jars = read_lock()
    folder = jar_folder()
    if missing_jars(folder, jars):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            waiting = f"waiting for another process that downloads Kafka's jars to {folder}"
            with exclusive(folder / ".lock", on_wait=lambda: _print(waiting)):
                _download(version, folder, missing_jars(folder, jars))
        except OSError as error:
            raise ConfigError(f"cannot store Kafka's jars in {folder}: {error.strerror or error}") from None
    return [folder / jar.file_name for jar in jars]


def _download(version: str, folder: Path, jars: list[Jar]) -> None:
    if not jars:  # downloaded by the process that held the lock
        return
    for rest in folder.glob("partial-*"):  # left by a download that was killed; this process holds the lock
        shutil.rmtree(rest, ignore_errors=True)
    _print(f"downloading Apache Kafka {version}: {len(jars)} jars, about 45 MB, once, to {folder}")
    with tempfile.TemporaryDirectory(prefix="partial-", dir=folder) as staging:
        try:
            _download_with_jgo(jars, Path(staging), folder)
        except (ConfigError, OSError):
            raise
        except Exception as error:
            _download_with_maven(jars, Path(staging), folder, reason=error)
    _print(f"Apache Kafka {version} is in {folder}")


def _download_with_jgo(jars: list[Jar], staging: Path, folder: Path) -> None:
    from jgo.maven import MavenContext
    from requests import RequestException

    context = MavenContext(repo_cache=staging, timeout=TIMEOUT_S)

    def fetch(jar: Jar) -> int:
        artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()
        try:
            file = Path(artifact.resolve())
        except RequestException as error:  # an OSError too, but not one of this disk
            raise RuntimeError(f"{jar.file_name}: {type(error).__name__}") from None
        return _store_verified(jar, file, folder)

    count, size, reported_at = 0, 0, time.monotonic()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        pending = [pool.submit(fetch, jar) for jar in jars]
        try:
            for finished in as_completed(pending):
                count, size = count + 1, size + finished.result()
                if time.monotonic() - reported_at > 1 or count == len(jars):
                    reported_at = time.monotonic()
                    _print(f"  {count} of {len(jars)} jars, {size / 1e6:.0f} MB")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _download_with_maven(jars: list[Jar], staging: Path, folder: Path, reason: Exception) -> None:
    """Download all jars by one `mvn` call, whose settings may name a company's mirror."""
    maven = shutil.which("mvn")
    if maven is None:
        raise ConfigError(
            f"Kafka's jars cannot be downloaded from Maven Central ({reason}). Check the network or the proxy "
            f"(HTTPS_PROXY), copy {folder} from a machine that has it, or use a running broker: --kafka HOST:PORT"
        )
    _print(f"  direct download failed ({reason}); trying mvn")
    dependencies = "".join(
        f"<dependency><groupId>{jar.group}</groupId><artifactId>{jar.artifact}</artifactId><version>{jar.version}</version>"
        "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions></dependency>"
        for jar in jars
    )
    pom = staging / "pom.xml"
    pom.write_text(
        "<project><modelVersion>4.0.0</modelVersion><groupId>headwater</groupId><artifactId>jars</artifactId>"
        f"<version>1</version><dependencies>{dependencies}</dependencies></project>"
    )
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={staging / 'mvn'}"]
    run = subprocess.run([maven, "-B", "-q", "-f", str(pom), *goal], capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
    if run.returncode:
        raise ConfigError(f"Kafka's jars cannot be downloaded, neither directly ({reason}) nor by mvn:\n{run.stdout[-600:]}")
    for jar in jars:
        _store_verified(jar, staging / "mvn" / jar.file_name, folder)


def _store_verified(jar: Jar, file: Path, folder: Path) -> int:
    """Move a downloaded jar into the cache and return its size. ConfigError where its hash is not the pinned one."""
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != jar.sha256:
        raise ConfigError(f"{jar.file_name} came with other bytes than kafka-jars.json pins: refused. Is a proxy rewriting?")
    file.replace(folder / jar.file_name)
    return len(content)


def _print(text: str) -> None:
    sys.stderr.write(f"headwater: {text}\n")
    sys.stderr.flush()


def write_lock(version: str) -> int:
    """Resolve Kafka `version` with its dependencies and write the lock file; return the number of jars."""
    from jgo.maven import MavenContext

    with tempfile.TemporaryDirectory() as folder:
        context = MavenContext(repo_cache=Path(folder), timeout=TIMEOUT_S)
        kafka = context.create_dependency(f"org.apache.kafka:kafka_2.13:{version}")
        inputs, others = context.resolver.resolve([kafka])
        log4j = next(d.version for d in others if d.artifactId == "log4j-core")
        artifacts = [d.artifact for d in (*inputs, *others, context.create_dependency(f"{LOGGING}:{log4j}"))]
        names = {f"{a.groupId}:{a.artifactId}:{a.version}": a for a in artifacts}
        jars = {name: hashlib.sha256(Path(names[name].resolve()).read_bytes()).hexdigest() for name in sorted(names)}
    LOCK_FILE.write_text(json.dumps({"kafka": version, "jars": jars}, indent=2) + "\n")
    return len(jars)


if __name__ == "__main__":
    _print(f"{write_lock(sys.argv[1])} jars locked")
