"""The stages that benchmarks run, by name, over topics of the benchmark's choice."""

from bench.passthrough import PassThrough
from infra.metrics import Metrics
from infra.settings import Settings
from streams.runtime.stage import Stage


def make_stage(name: str, settings: Settings, source: str, sink: str, metrics: Metrics) -> Stage:
    """`copy` from `source` to `sink`, or `consent` as it is, reading events from `source`; its exits are its own."""
    if name == "copy":
        return PassThrough(f"bench-{sink}", source, sink)
    from streams.consent.app import build
    from streams.consent.stage import SIGNALS

    stage = build(settings, metrics)
    stage.name = f"bench-{sink}"  # a consumer group of its own for each contender
    stage.inputs = (source, SIGNALS)
    return stage
