"""Checks of the cluster profile's files that need no Docker engine."""

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped] # publishes no types; used for one call
import pytest
import yaml

from infra.ops.cli import COMMANDS
from infra.telemetry.metrics import HISTOGRAMS, LABELS

ROOT = Path(__file__).resolve().parents[2]
OURS = {
    "topics",
    "contracts",
    "migrate",
    "collector",
    "consent",
    "identity",
    "bandit",
    "warehouse",
    "decisions",
    "gauge",
    "upkeep",
}
FROM_PROMETHEUS: dict[str, tuple[str, ...]] = {"up": ()}
NOT_IN_SERVICES = {
    "HEADWATER_SECRET": "a file, by HEADWATER_SECRET_FILE",
    "HEADWATER_OPS_TOKEN": "a file, by HEADWATER_OPS_TOKEN_FILE",
    "HEADWATER_SLOT": "an option of each worker: --slot",
    "HEADWATER_FROM": "an option of each worker: --from",
}
EVERYWHERE = {"job", "instance", "le"}
WORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "bool", "offset"}


def compose() -> dict[str, Any]:
    """The compose file, anchors resolved."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def expressions() -> Iterator[tuple[str, str]]:
    """(where, PromQL) of every dashboard panel and alert rule."""
    for file in sorted((ROOT / "infra/deploy/grafana/dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{file.name}: {panel['title']}", target["expr"]
    for group in yaml.safe_load((ROOT / "infra/deploy/prometheus/alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield f"alerts.yml: {rule['alert']}", rule["expr"]


def metrics_of(expr: str) -> dict[str, set[str]]:
    """Metric -> labels that its selector names; labels of `by (...)` and the like stand under the empty name."""
    labels: dict[str, set[str]] = {"": set()}
    expr = re.sub(r'"[^"]*"', '""', expr)
    for names in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expr):
        labels[""] |= {name.strip() for name in names.split(",")}
    expr = re.sub(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)", " ", expr)
    expr = re.sub(r"\[[^\]]*\]", " ", expr)
    for name, called, selector in re.findall(r"([a-zA-Z_:][\w:]*)\s*(\(?)(\{[^}]*\})?", expr):
        if not called and name not in WORDS and f"{name}=" not in selector:
            labels.setdefault(name, set()).update(re.findall(r"(\w+)\s*[=!]", selector))
        expr = expr.replace(selector, " ", 1) if selector else expr
    return labels


def declared(name: str) -> tuple[str, ...] | None:
    """Return the labels of a declared metric; None where there is no such metric."""
    if name in FROM_PROMETHEUS:
        return FROM_PROMETHEUS[name]
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    if base != name and base in HISTOGRAMS:
        return LABELS[base]
    return None if name in HISTOGRAMS else LABELS.get(name)


def test_compose_file_obeys_the_compose_specification() -> None:
    """The schema is check-jsonschema's vendored `vendor.compose-spec`."""
    # Its own command line does not start beside Faust, which holds click below 8.4; the schema is what counts.
    package = importlib.util.find_spec("check_jsonschema")
    assert package is not None
    assert package.origin is not None
    schema = json.loads((Path(package.origin).parent / "builtin_schemas/vendor/compose-spec.json").read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert [f"{list(error.path)}: {error.message}" for error in validator.iter_errors(compose())] == []
    assert list(validator.iter_errors({"services": {"x": {"image": 5}}}))


def test_ports_are_published_on_loopback_only() -> None:
    """Every port is published on loopback only."""
    for name, service in compose()["services"].items():
        for port in service.get("ports", []):
            assert str(port).startswith("127.0.0.1:"), name


def test_everything_that_runs_is_watched() -> None:
    """Each service has a healthcheck; jobs end instead, and what needs them waits for their success."""
    services = compose()["services"]
    jobs = {name for name, service in services.items() if service.get("restart") == "on-failure:5"}
    assert jobs == {"topics", "contracts", "migrate"}
    for name, service in services.items():
        assert name in jobs or "healthcheck" in service, name
        for needed, how in service.get("depends_on", {}).items():
            assert needed in services
            assert how["condition"] == ("service_completed_successfully" if needed in jobs else "service_healthy")


def test_our_services_run_as_a_user_without_privileges() -> None:
    """Read-only root, no capabilities, a user in the image; the commands exist."""
    services = compose()["services"]
    for name in OURS:
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]
        assert services[name]["security_opt"] == ["no-new-privileges:true"]
        assert "entrypoint" in services[name] or services[name]["command"][0] in COMMANDS
    dockerfile = (ROOT / "infra/deploy/compose/Dockerfile").read_text().splitlines()
    assert [line for line in dockerfile if line.startswith("USER ")] == ["USER 10001:10001"]


def example() -> dict[str, str]:
    """The variables of env.example."""
    lines = (ROOT / "infra/deploy/compose/env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and line[0] != "#")


def passed_on() -> set[str]:
    """Headwater's settings that come from .env or the shell: they have no value in the file."""
    environments = [compose()["services"][name].get("environment", {}) for name in OURS]
    return {name for environment in environments for name, value in environment.items() if value is None}


def test_passwords_come_from_outside() -> None:
    """No value of a secret stands in the file; each variable is in env.example, empty but for one that says how to start."""
    variables = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    assert variables <= set(example())
    assert set(example()) - variables <= passed_on()
    assert {name: value for name, value in example().items() if value} == {"HEADWATER_FROM": "committed"}


def test_secrets_are_files_that_git_and_images_never_see() -> None:
    """Compose mounts files beside a read-only root; it refuses secrets from variables there."""
    secrets = compose()["secrets"]
    assert {name: secret for name, secret in secrets.items() if secret != {"file": f"./secrets/{name}"}} == {}
    for service in compose()["services"].values():
        assert set(service.get("secrets", [])) <= set(secrets)
    assert {"/secrets/", "/.env"} <= set((ROOT / ".gitignore").read_text().splitlines())
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert next(line for line in ignored if line and line[0] != "#") == "*"
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "infra/deploy/compose/Dockerfile").read_text(), re.MULTILINE)
    assert {line[1:] for line in ignored if line[:1] == "!"} == {name for names in copied for name in names.split()}


@pytest.mark.parametrize("page", ["docs/reference/settings.md", "docs/reference/commands.md", "infra/deploy/compose/README.md"])
def test_every_documented_variable_reaches_the_services(page: str) -> None:
    """What a page promises can be set: a variable that Compose does not name never arrives in a container."""
    documented = set(re.findall(r"\b(HEADWATER_[A-Z_]*[A-Z])\b", (ROOT / page).read_text()))
    environments = [compose()["services"][name].get("environment", {}) for name in OURS]
    available = {name for environment in environments for name in environment}
    assert documented - available == set(NOT_IN_SERVICES) & documented
    assert documented


def test_our_services_share_their_settings() -> None:
    """A setting that only some rooms had would make them disagree."""
    services = compose()["services"]
    shared = services["collector"]["environment"]
    for name in OURS:
        environment = services[name]["environment"]
        assert {key: environment.get(key, "-") for key in shared} == shared, name
        assert set(environment) - set(shared) <= {"HEADWATER_METRICS_PORT", "HEADWATER_OPS_TOKEN_FILE"}


def test_mounted_files_exist() -> None:
    """A missing file would be mounted as an empty folder."""
    for service in compose()["services"].values():
        for volume in service.get("volumes", []):
            if volume.startswith("./"):
                assert (ROOT / volume.split(":")[0]).exists(), volume


def test_prometheus_scrapes_every_room() -> None:
    """Each room's service is a target."""
    config = yaml.safe_load((ROOT / "infra/deploy/prometheus/prometheus.yml").read_text())
    targets = {t.split(":")[0] for job in config["scrape_configs"] for s in job["static_configs"] for t in s["targets"]}
    assert targets == OURS - {"topics", "contracts", "migrate"}
    assert config["rule_files"] == ["/etc/prometheus/alerts.yml"]


@pytest.mark.parametrize(("source", "expr"), [pytest.param(*place, id=place[0]) for place in expressions()])
def test_dashboards_and_alerts_ask_for_metrics_that_exist(source: str, expr: str) -> None:
    """Every metric and every label in them is in the one table of metrics."""
    selectors = metrics_of(expr)
    grouped = selectors.pop("")
    assert selectors, source
    labels: set[str] = set(EVERYWHERE)
    for name, selected in selectors.items():
        declared_labels = declared(name)
        assert declared_labels is not None, f"{source}: no metric {name}"
        assert selected <= {*declared_labels, *EVERYWHERE}, f"{source}: {name} has no such label"
        labels |= set(declared_labels)
    assert grouped <= labels, source


@pytest.mark.parametrize(
    ("expr", "metrics"),
    [
        ("up == 0", {"up": set()}),
        ('max by (group) (a_state{state=~"X|Y"}) == 1', {"a_state": {"state"}}),
        ("sum(rate(b_total[5m])) / sum(rate(c_total[5m])) > 0.02", {"b_total": set(), "c_total": set()}),
        ("absent(d) or d > 60", {"d": set()}),
    ],
)
def test_the_reader_of_expressions_sees_what_is_there(expr: str, metrics: dict[str, set[str]]) -> None:
    """The expression reader finds names, and undeclared names are no metrics."""
    metrics_found = metrics_of(expr)
    metrics_found.pop("")
    assert metrics_found == metrics
    assert all(name == "up" or declared(name) is None for name in metrics_found)


def test_a_histogram_is_asked_for_by_its_series() -> None:
    """`headwater_commit_seconds` alone returns nothing in Prometheus."""
    assert declared("headwater_commit_seconds") is None
    assert declared("headwater_commit_seconds_bucket") == ("stage",)


def test_every_alert_says_what_to_do() -> None:
    """A summary, an action, a severity."""
    for group in yaml.safe_load((ROOT / "infra/deploy/prometheus/alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            assert {"summary", "action"} == set(rule["annotations"])
            assert rule["labels"]["severity"] in {"warning", "critical"}
