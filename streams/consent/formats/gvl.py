"""Global Vendor Lists (IAB TCF) in files, one a version. They are imported by a command, never fetched."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from infra.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Vendor:
    """What one vendor declares. Purposes are numbers of the TCF."""

    purposes: frozenset[int]
    """On consent, unless flexible."""
    li_purposes: frozenset[int]
    """On legitimate interest, unless flexible."""
    flexible: frozenset[int]
    deleted_ms: int | None
    """When it left the list, milliseconds UTC."""


@dataclass(frozen=True, slots=True)
class Gvl:
    """One version of the list."""

    version: int
    vendors: Mapping[int, Vendor]


def parse_gvl(text: str, name: str) -> Gvl:
    """Parse a list as IAB Europe publishes it. ConfigError."""
    try:
        document = json.loads(text)
        version = _number(document["vendorListVersion"])
        vendors = {_number(int(key)): _vendor(vendor) for key, vendor in document["vendors"].items()}
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name}, line {error.lineno}: {error.msg}") from None
    except KeyError as error:
        raise ConfigError(f"{name}: is no vendor list: {error} is missing") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{name}: is no vendor list: {error}") from None
    return Gvl(version, vendors)


def _vendor(entry: Mapping[str, Any]) -> Vendor:
    deleted = entry.get("deletedDate")
    return Vendor(
        frozenset(map(_number, entry["purposes"])),
        frozenset(map(_number, entry["legIntPurposes"])),
        frozenset(map(_number, entry["flexiblePurposes"])),
        None if deleted is None else int(datetime.fromisoformat(deleted).timestamp() * 1000),
    )


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65_535:
        raise ValueError("ids and versions are numbers from 1 to 65535")
    return value


class GvlFolder:
    """Reads `vendor-list-v<N>.json` files of one folder, each once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lists: dict[int, Gvl] = {}

    def versions(self) -> list[int]:
        """The imported versions, ascending."""
        names = (file.stem.removeprefix("vendor-list-v") for file in self._folder.glob("vendor-list-v*.json"))
        return sorted(int(name) for name in names if name.isdigit())

    def version(self, number: int) -> Gvl | None:
        """One version; None where it has not been imported. ConfigError for a file that cannot be read."""
        gvl = self._lists.get(number)
        if gvl is None:
            file = gvl_file(self._folder, number)
            try:
                gvl = self._lists[number] = parse_gvl(file.read_text(encoding="utf-8"), str(file))
            except FileNotFoundError:
                return None
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{file}: {error}") from None
        return gvl


def gvl_file(folder: Path, version: int) -> Path:
    """The file of a version."""
    return folder / f"vendor-list-v{version}.json"


def import_gvl(file: Path, folder: Path) -> Gvl:
    """Validate a list and store it. ConfigError where it is invalid, or the stored version differs."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from None
    gvl = parse_gvl(text, str(file))
    target = gvl_file(folder, gvl.version)
    if target.exists() and json.loads(target.read_text(encoding="utf-8")) != json.loads(text):
        raise ConfigError(f"version {gvl.version} is there already and says something else: {target}")
    folder.mkdir(parents=True, exist_ok=True)
    new = target.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(target)
    return gvl
