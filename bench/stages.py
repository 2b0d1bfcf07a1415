"""The stages that benchmarks run, by name, over topics of the benchmark's choice."""

from collections.abc import Callable

from bench.passthrough import PassThrough
from infra.settings import Settings
from infra.telemetry.metrics import Metrics
from streams.runtime.stage import Stage


def make_stage(name: str, settings: Settings, source: str, sink: str, metrics: Metrics) -> Stage:
    """Build `copy` from `source` to `sink`, or a stage that reads events from `source` and keeps its own exits."""
    if name == "copy":
        return PassThrough(f"bench-{sink}", source, sink)
    stage = STAGES[name](settings, metrics)
    stage.name = f"bench-{sink}"  # a consumer group of its own for each contender
    stage.inputs = (source, *stage.inputs[1:])
    return stage


def _consent(settings: Settings, metrics: Metrics) -> Stage:
    from streams.consent.app import build

    return build(settings, metrics)


def _identity(settings: Settings, metrics: Metrics) -> Stage:
    from streams.identity.app import build

    return build(settings, metrics)


STAGES: dict[str, Callable[[Settings, Metrics], Stage]] = {"consent": _consent, "identity": _identity}
