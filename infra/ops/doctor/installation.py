"""Checks of this installation: disk, ports, contracts, policy, secret, write keys."""

import json
import shutil
from collections.abc import Callable

from infra.errors import ConfigError
from infra.ops.doctor.check_result import CheckResult, Grade
from infra.ops.embedded.ports import describe_owner, is_free
from infra.ops.embedded.state import FREE_BYTES, refuse_shared
from infra.settings import Settings, house_file


def check_disk(settings: Settings) -> CheckResult:
    """Check the free space of the state folder's disk."""
    place = next(p for p in (settings.state_dir.resolve(), *settings.state_dir.resolve().parents) if p.exists())
    free = shutil.disk_usage(place).free
    detail = f"{free / 1e9:.1f} GB free at {place}"
    if free < FREE_BYTES:
        return CheckResult("disk", Grade.FAIL, detail, "free some, or set HEADWATER_STATE_DIR to a folder on another disk")
    return CheckResult("disk", Grade.WARN if free < 5 * FREE_BYTES else Grade.OK, detail)


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


INSTALLATION_CHECKS: tuple[Callable[[Settings], CheckResult], ...] = (
    check_disk, check_ports, check_contracts, check_policy, check_secret, check_write_keys,
)  # fmt: skip
