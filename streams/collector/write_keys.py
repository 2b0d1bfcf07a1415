"""Write keys: one or more per source, hashed at rest, read again when their file changes."""

import fcntl
import json
import secrets
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from infra.errors import ConfigError
from infra.parsing.site import site_of
from infra.secrets import same, sha256_hex
from schemas.registry import write_atomically

CHECK_S = 1.0
PREFIX = "hw_"


class KeyKind(StrEnum):
    """Who sends under a key, which says whose place a request's headers tell."""

    BROWSER = "browser"
    """Visitors' own devices: the region is the trusted header's."""
    SERVER = "server"
    """Servers, tag-manager containers among them: the region is the event's, never the server's own."""
    IMPORT = "import"
    """Files of the past, sent by a server."""


class WriteKey(BaseModel):
    """One key. Only its hash is kept: a lost key is replaced, not read again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    site: Annotated[str, Field(min_length=1, max_length=253)]
    """Site of events that name no page; a host is kept in the spelling of events' hosts."""
    kind: KeyKind = KeyKind.SERVER
    """Of files written before there were kinds: the one by which no region is wrong."""
    events_per_s: Annotated[float, Field(gt=0)] = 5_000
    revoked: bool = False

    @field_validator("site")
    @classmethod
    def _normalise_site(cls, site: str) -> str:
        return site_of(site) or site


class KeyFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid")

    keys: list[WriteKey] = []


def read_keys(file: Path) -> list[WriteKey]:
    """All keys, revoked ones too; none where there is no file. ConfigError names file and place."""
    try:
        return KeyFile.model_validate_json(file.read_text()).keys
    except FileNotFoundError:
        return []
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"write keys {file}: {place or 'file'}: {first['msg']}") from None


def create_key(file: Path, source: str, *, site: str, events_per_s: float = 5_000, kind: KeyKind = KeyKind.SERVER) -> str:
    """Add a key for `source` and return it in clear, for the first and last time. ConfigError for a bad name."""
    clear = PREFIX + secrets.token_urlsafe(24)
    try:
        key = WriteKey(source=source, sha256=sha256_hex(clear), site=site, events_per_s=events_per_s, kind=kind)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{first['loc'][0]}: {first['msg']}") from None
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _exclusive_lock(file):
        _write(file, [*read_keys(file), key])
    return clear


def revoke_keys(file: Path, source: str) -> int:
    """Revoke all keys of a source; returns how many were in force."""
    with _exclusive_lock(file):
        keys = read_keys(file)
        revoked = [key.model_copy(update={"revoked": True}) if key.source == source else key for key in keys]
        _write(file, revoked)
    return sum(before != after for before, after in zip(keys, revoked, strict=True))


@contextmanager
def _exclusive_lock(file: Path) -> Iterator[None]:
    with file.with_name(f".{file.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _write(file: Path, keys: list[WriteKey]) -> None:
    write_atomically(file, json.dumps({"keys": [key.model_dump() for key in keys]}, indent=2) + "\n")
    file.chmod(0o600)


class WriteKeyStore:
    """Keys in force, looked up by what a client sent."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._mtime_ns = -1
        self._checked_at = -CHECK_S
        self._keys: dict[str, WriteKey] = {}

    def active_keys(self) -> Collection[WriteKey]:
        """All keys that are not revoked."""
        self._reload()
        return self._keys.values()

    def find(self, clear: str) -> WriteKey | None:
        """The key, or None for an unknown or revoked one."""
        self._reload()
        digest = sha256_hex(clear)
        key = self._keys.get(digest)
        # The dictionary compares hashes, which tell a guesser nothing; the comparison in constant time costs nothing more.
        return key if key is not None and same(key.sha256, digest) else None

    def _reload(self) -> None:
        now = time.monotonic()
        if now - self._checked_at < CHECK_S:
            return
        self._checked_at = now
        mtime_ns = self._file.stat().st_mtime_ns if self._file.exists() else 0
        if mtime_ns != self._mtime_ns:
            self._keys = {key.sha256: key for key in read_keys(self._file) if not key.revoked}
            self._mtime_ns = mtime_ns
