"""The state folder: one `headwater up` at a time, secrets with owner-only permissions, and status files."""

import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from infra.errors import ConfigError
from infra.ops.embedded.supervisor import Status
from infra.processes.file_lock import LockedElsewhere, claim
from infra.settings import house_file

FREE_BYTES = 1_000_000_000


class StateDir:
    """The folder of one installation, locked by one `headwater up` while it runs."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._lock: IO[str] | None = None

    def claim(self, needed_bytes: int = FREE_BYTES) -> None:
        """Create and lock the folder. ConfigError where another `up` has it, it cannot be written, or the disk is full."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            (self.path / "logs").mkdir(exist_ok=True)
            self._lock = claim(self.path / "up.lock")
        except OSError as error:
            raise ConfigError(f"cannot write to {self.path} ({error.strerror}): give another folder with --state-dir") from None
        except LockedElsewhere as error:
            raise ConfigError(
                f"another `headwater up` (process {error.holder}) runs in {self.path}: stop it, or give this one a folder of "
                "its own with --state-dir"
            ) from None
        self._remove_status_files()  # left by an `up` that was killed
        free = shutil.disk_usage(self.path).free
        if free < needed_bytes:
            self.release()
            raise ConfigError(
                f"only {free / 1e6:.0f} MB are free on the disk of {self.path}, {needed_bytes / 1e6:.0f} MB are needed: "
                "free some, or give a folder on another disk with --state-dir"
            )

    def disk_warning(self) -> str:
        """Return a warning where the disk is nearly full; else an empty text."""
        free = shutil.disk_usage(self.path).free
        return f"only {free / 1e6:.0f} MB are free on the disk of {self.path}: free some" if free < FREE_BYTES / 10 else ""

    def release(self) -> None:
        """Remove the status files and unlock the folder."""
        if self._lock is not None:
            self._remove_status_files()
            self._lock.close()
            self._lock = None

    def _remove_status_files(self) -> None:
        house_file(self.path).unlink(missing_ok=True)
        (self.path / "services.json").unlink(missing_ok=True)

    def log(self, name: str) -> Path:
        """Return the log file of a service."""
        return self.path / "logs" / f"{name}.log"

    def secret(self, name: str, *, nbytes: int = 32) -> str:
        """Return the secret in file `name`, created if missing. ConfigError where others may read it."""
        file = self.path / name
        if not file.exists():
            write_private(file, secrets.token_hex(nbytes) + "\n")
        refuse_shared(file)
        return file.read_text().strip()

    # -- files

    def remembered_ports(self) -> dict[str, int]:
        """Return the ports of the last run, so that addresses stay the same."""
        ports = self._read_json("ports.json")
        return {name: port for name, port in ports.items() if isinstance(port, int)}

    def remember_ports(self, ports: Mapping[str, int]) -> None:
        """Write this run's ports."""
        write_private(self.path / "ports.json", json.dumps(dict(ports), indent=2) + "\n")

    def has_started(self, cluster: str, group: str) -> bool:
        """Whether a consumer group of this Kafka cluster has started: only its first start may use the earliest offsets."""
        return group in self._read_json("first-starts.json").get(cluster, [])

    def mark_started(self, cluster: str, group: str) -> None:
        """Record that the group has started."""
        groups = self._read_json("first-starts.json")
        if group not in groups.get(cluster, []):
            groups[cluster] = sorted([*groups.get(cluster, []), group])
            write_private(self.path / "first-starts.json", json.dumps(groups, indent=2) + "\n")

    def write_house(self, house: Mapping[str, Any]) -> None:
        """Write the addresses of the running services; keys are names of Settings."""
        write_private(house_file(self.path), json.dumps(dict(house), indent=2) + "\n")

    def write_services(self, statuses: Sequence[Status]) -> None:
        """Write the state of each service."""
        rows = [
            {
                "name": status.service.name,
                "state": status.state.value,
                "pid": status.pid,
                "port": status.service.port,
                "url": status.service.url,
                "restarts": status.restarts,
                "log": str(self.log(status.service.name)),
            }
            for status in statuses
        ]
        write_private(self.path / "services.json", json.dumps({"up": os.getpid(), "services": rows}, indent=2) + "\n")

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self.path / name).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return content if isinstance(content, dict) else {}


def write_private(file: Path, text: str) -> None:
    """Write a file with owner-only permissions, atomically."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
    draft.replace(file)


def refuse_shared(file: Path) -> None:
    """Raise ConfigError where others may read a secret file."""
    mode = file.stat().st_mode & 0o777
    if mode & 0o077:
        raise ConfigError(f"{file} may be read by others (mode {mode:03o}): run `chmod 600 {file}`, and consider a new secret")
