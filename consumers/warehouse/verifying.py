"""Verification on demand: compares the records that Kafka delivers up to the committed offsets with the rows."""

from collections.abc import Callable

from consumers.warehouse.schema.migrating import migrate
from consumers.warehouse.store import SEARCH_S, Store
from consumers.warehouse.verification.record_source import CommittedOffset
from consumers.warehouse.verification.results import BY_HAND, FULL, Verification
from consumers.warehouse.verification.verifier import AfterSlice, Verifier, continue_at_once
from infra.errors import ConfigError, Retryable
from infra.settings import Settings
from schemas.registry import Registry


def verify(settings: Settings, after_slice: AfterSlice = continue_at_once) -> list[Verification]:
    """Compare all that Kafka still has; one result a partition. ConfigError when Kafka or ClickHouse is away."""
    return _verify_partitions(settings, after_slice, lambda verifier, position: verifier.full(position, FULL))


def verify_new(settings: Settings, after_slice: AfterSlice = continue_at_once) -> list[Verification]:
    """Compare what was not verified before, and again the ranges that were wrong; otherwise as `verify`."""
    return _verify_partitions(settings, after_slice, lambda verifier, position: verifier.incremental(position, BY_HAND))


def accept_losses(settings: Settings, after_slice: AfterSlice = continue_at_once) -> list[Verification]:
    """As `verify_new`, and stop reporting wrong ranges that Kafka no longer has."""

    def compare(verifier: Verifier, position: CommittedOffset) -> Verification:
        verifier.accepts_losses = True
        return verifier.incremental(position, BY_HAND)

    return _verify_partitions(settings, after_slice, compare)


def _verify_partitions(
    settings: Settings, after_slice: AfterSlice, compare: Callable[[Verifier, CommittedOffset], Verification]
) -> list[Verification]:
    migrate(settings)
    store = Store(settings, SEARCH_S)
    verifier = Verifier(settings, store, Registry(settings.contracts), after_slice)
    try:
        results = [compare(verifier, position) for position in verifier.prepare() if position.offset >= 0]
        verifier.record_idle()
        return results
    except Retryable as error:
        raise ConfigError(str(error)) from None
    finally:
        verifier.close()
        store.close()


__all__ = ["accept_losses", "verify", "verify_new"]
