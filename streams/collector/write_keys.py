"""Write keys: one or more per source, hashed at rest, reloaded when their file changes."""

import json
import secrets
import time
from collections.abc import Collection
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from infra.errors import ConfigError
from infra.parsing.site import site_of
from infra.processes.file_lock import exclusive
from infra.secrets import equal_in_constant_time, sha256_hex
from schemas.registry import write_atomically

CHECK_S = 1.0
PREFIX = "hw_"


class KeyKind(StrEnum):
    """Who sends under a key, and therefore whose region the request's headers tell."""

    BROWSER = "browser"
    """Visitors' devices: the region comes from the trusted header."""
    SERVER = "server"
    """Servers, including tag-manager containers: the region comes from the event."""
    IMPORT = "import"
    """A server that imports historical data: the region comes from the event, times are not corrected, rows are `imported`."""


class WriteKey(BaseModel):
    """One key. Only its hash is stored: a lost key must be replaced."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    site: Annotated[str, Field(min_length=1, max_length=253)]
    """Site of events that name no page; a host is normalised as events' hosts are."""
    kind: KeyKind = KeyKind.SERVER
    """The default for files written before keys had kinds: under it no wrong region is recorded."""
    events_per_s: Annotated[float, Field(gt=0)] = 5_000
    revoked: bool = False

    @field_validator("site")
    @classmethod
    def _normalise_site(cls, site: str) -> str:
        return site_of(site) or site


class KeyFile(BaseModel):
    """The content of the key file."""

    model_config = ConfigDict(extra="forbid")

    keys: list[WriteKey] = []


def read_keys(file: Path) -> list[WriteKey]:
    """Return all keys, including revoked ones; none where the file is missing. ConfigError names the file and the field."""
    try:
        return KeyFile.model_validate_json(file.read_text()).keys
    except FileNotFoundError:
        return []
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"write keys {file}: {place or 'file'}: {first['msg']}") from None


def create_key(file: Path, source: str, *, site: str, events_per_s: float = 5_000, kind: KeyKind = KeyKind.SERVER) -> str:
    """Add a key for `source` and return it in clear; it cannot be read again. ConfigError for an invalid field."""
    clear = PREFIX + secrets.token_urlsafe(24)
    try:
        key = WriteKey(source=source, sha256=sha256_hex(clear), site=site, events_per_s=events_per_s, kind=kind)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{first['loc'][0]}: {first['msg']}") from None
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _lock(file):
        _write(file, [*read_keys(file), key])
    return clear


def revoke_keys(file: Path, source: str) -> int:
    """Revoke all keys of a source. Returns how many of them were active."""
    with _lock(file):
        keys = read_keys(file)
        updated = [key.model_copy(update={"revoked": True}) if key.source == source else key for key in keys]
        _write(file, updated)
    return sum(before != after for before, after in zip(keys, updated, strict=True))


def _lock(file: Path) -> AbstractContextManager[None]:
    return exclusive(file.with_name(f".{file.name}.lock"))


def _write(file: Path, keys: list[WriteKey]) -> None:
    write_atomically(file, json.dumps({"keys": [key.model_dump() for key in keys]}, indent=2) + "\n")
    file.chmod(0o600)


class WriteKeyStore:
    """Active keys, looked up by the clear key that a client sends."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._mtime_ns = -1
        self._checked_at = -CHECK_S
        self._keys: dict[str, WriteKey] = {}

    def active_keys(self) -> Collection[WriteKey]:
        """Return the keys that are not revoked."""
        self._reload()
        return self._keys.values()

    def find(self, clear: str) -> WriteKey | None:
        """Return the key, or None where it is unknown or revoked."""
        self._reload()
        digest = sha256_hex(clear)
        key = self._keys.get(digest)
        # The dictionary compares hashes, whose timing reveals nothing of a key; the constant-time comparison is cheap.
        return key if key is not None and equal_in_constant_time(key.sha256, digest) else None

    def _reload(self) -> None:
        now = time.monotonic()
        if now - self._checked_at < CHECK_S:
            return
        self._checked_at = now
        mtime_ns = self._file.stat().st_mtime_ns if self._file.exists() else 0
        if mtime_ns != self._mtime_ns:
            self._keys = {key.sha256: key for key in read_keys(self._file) if not key.revoked}
            self._mtime_ns = mtime_ns
