"""The stages that benchmarks run, by name, over topics of the benchmark's choice."""

from typing import Any

from bench.passthrough import PassThrough
from infra.metrics import Metrics
from infra.settings import Settings
from streams.runtime.stage import Stage


def make_stage(name: str, settings: Settings, source: str, sink: str) -> Stage:
    """`copy` from `source` to `sink`, or `consent` as it is (it has topics of its own)."""
    if name == "copy":
        return PassThrough(f"bench-{sink}", source, sink)
    from streams.consent.app import build

    stage: Any = build(settings, Metrics())
    return _named(stage, f"bench-{sink}")


def _named(stage: Any, group: str) -> Stage:
    stage.name = group  # a consumer group of its own for each contender
    named: Stage = stage
    return named
