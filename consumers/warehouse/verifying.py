"""The proof by hand: what Kafka delivers up to the committed offset, compared with the rows."""

from collections.abc import Callable

from consumers.warehouse.schema.migrating import migrate
from consumers.warehouse.store import SEARCH_S, Store
from consumers.warehouse.verification.results import BY_HAND, FULL, Verification
from consumers.warehouse.verification.verifier import SliceDone, Verifier
from infra.errors import ConfigError, Retryable
from infra.settings import Settings
from schemas.registry import Registry


def verify(settings: Settings, pace: SliceDone | None = None) -> list[Verification]:
    """One result a partition, over all that Kafka still has. ConfigError when Kafka or ClickHouse is away."""
    return _verified(
        settings, pace, lambda verifier: [verifier.full(one, FULL) for one in verifier.positions() if one.offset >= 0]
    )


def verify_new(settings: Settings, pace: SliceDone | None = None) -> list[Verification]:
    """The same over what was not verified before, and again over what was wrong."""
    return _verified(
        settings, pace, lambda verifier: [verifier.incremental(one, BY_HAND) for one in verifier.positions() if one.offset >= 0]
    )


def accept_losses(settings: Settings, pace: SliceDone | None = None) -> list[Verification]:
    """As `verify_new`; ranges that were wrong and that Kafka no longer has stop being reported."""

    def run(verifier: Verifier) -> list[Verification]:
        verifier.accepts_losses = True
        return [verifier.incremental(one, BY_HAND) for one in verifier.positions() if one.offset >= 0]

    return _verified(settings, pace, run)


def _verified(settings: Settings, pace: SliceDone | None, run: Callable[[Verifier], list[Verification]]) -> list[Verification]:
    migrate(settings)
    store = Store(settings, SEARCH_S)
    verifier = Verifier(settings, store, Registry(settings.contracts), pace)
    try:
        return run(verifier)
    except Retryable as error:
        raise ConfigError(str(error)) from None
    finally:
        verifier.close()
        store.close()


__all__ = ["accept_losses", "verify", "verify_new"]
