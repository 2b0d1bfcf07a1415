"""The doctor detects problems, grades them, and gives advice."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from infra.ops.doctor import app as doctor
from infra.ops.doctor import installation, machine, services
from infra.ops.doctor.check_result import CheckResult, Grade
from infra.ops.doctor.services import _unlisted_origins, _unmapped_signals
from infra.settings import Settings, load_settings
from streams.consent.policy import PACKAGED


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of an empty installation."""
    return load_settings(state_dir=tmp_path)


def test_this_machine_can_run_the_house(settings: Settings) -> None:
    """Python, Java, redis-server, chDB and the contracts are there."""
    looks = [
        machine.check_python(),
        machine.check_java(),
        machine.check_redis_binary(),
        machine.check_clickhouse_engine(),
        installation.check_contracts(settings),
    ]
    assert {finding.grade for finding in looks} == {Grade.OK}, looks


def test_absent_jars_are_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Jars that are not there yet will be downloaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert machine.check_jars().grade is Grade.WARN


def test_damaged_contracts_fail(tmp_path: Path) -> None:
    """A contracts folder without a lock file cannot work."""
    assert installation.check_contracts(load_settings(state_dir=tmp_path, contracts=tmp_path)).grade is Grade.FAIL


def test_policy_grades(settings: Settings, tmp_path: Path) -> None:
    """One that names nobody is a warning, a broken one a failure."""
    assert installation.check_policy(settings).grade is Grade.WARN
    mine = tmp_path / "mine.yaml"
    mine.write_text(PACKAGED.read_text().replace('controller: ""', 'controller: "Shop Ltd, privacy@shop.example"'))
    named = load_settings(state_dir=tmp_path, policy=mine)
    assert installation.check_policy(named) == CheckResult("policy", Grade.OK, installation.check_policy(named).detail)
    assert installation.check_policy(named).detail.endswith("of Shop Ltd, privacy@shop.example")
    mine.write_text("nonsense")
    assert installation.check_policy(named).grade is Grade.FAIL


def test_secret_grades(settings: Settings) -> None:
    """No secret yet is a warning; one that is too short or may be read by others is a failure."""
    assert installation.check_secret(settings).grade is Grade.WARN
    file = settings.state_dir / "secret"
    file.write_text("x" * 32)
    file.chmod(0o644)
    assert "chmod 600" in installation.check_secret(settings).advice
    file.chmod(0o600)
    assert installation.check_secret(settings).grade is Grade.OK
    assert installation.check_secret(load_settings(state_dir=settings.state_dir, secret=SecretStr("short"))).grade is Grade.FAIL


def test_write_key_grades(settings: Settings) -> None:
    """No file is a warning, a damaged one a failure, and only keys that are not revoked count."""
    assert installation.check_write_keys(settings).grade is Grade.WARN
    file = settings.write_keys_file
    file.write_text("{")
    assert installation.check_write_keys(settings).grade is Grade.FAIL
    file.write_text(json.dumps({"keys": [{"source": "web", "revoked": True}]}))
    assert installation.check_write_keys(settings).grade is Grade.WARN
    file.write_text(json.dumps({"keys": [{"source": "web", "revoked": False}]}))
    assert installation.check_write_keys(settings) == CheckResult("write keys", Grade.OK, "1 for web")


def check_worker(state_dir: Path, up: int, **row: object) -> list[CheckResult]:
    """Return the doctor's results for one running worker."""
    worker = {"name": "consent", "state": "ready", "pid": os.getpid(), "port": 1, "restarts": 0, "log": "consent.log"} | row
    (state_dir / "services.json").write_text(json.dumps({"up": up, "services": [worker]}))
    return list(services.check_house(load_settings(state_dir=state_dir)))


@pytest.mark.parametrize(
    ("row", "grade"),
    [
        ({}, Grade.OK),
        ({"state": "halted", "pid": 0}, Grade.FAIL),
        ({"state": "pausing", "pid": 0}, Grade.WARN),
        ({"pid": 2**22 + 1}, Grade.WARN),
    ],
)
def test_services_are_graded(tmp_path: Path, row: dict[str, object], grade: Grade) -> None:
    """A part that halted is a failure; one that is away for the moment a warning."""
    assert [finding.grade for finding in check_worker(tmp_path, os.getpid(), **row)] == [grade]


def test_unmapped_signals_are_told() -> None:
    """Names of consent signals that nothing maps, most frequent first, out of the consent worker's metrics."""
    page = (
        'headwater_consent_unmapped_total{name="partners",source="web"} 3.0\n'
        'headwater_consent_unmapped_created{name="partners",source="web"} 1.7e+09\n'
        'headwater_consent_unmapped_total{name="ads & more",source="app"} 12.0\n'
    )
    assert _unmapped_signals(page) == "ads & more (app), partners (web)"
    assert _unmapped_signals("headwater_waiting 0.0") == ""


@pytest.mark.parametrize(
    ("page", "text", "advice"),
    [
        ('headwater_waiting{service="clickhouse",stage="warehouse"} 1.0\n', "waits for ClickHouse", "warehouse status"),
        ('headwater_waiting{service="contracts",stage="warehouse"} 1.0\n', "waits for a contract", "warehouse.log"),
        ('headwater_waiting{service="",stage="warehouse"} 1.0\n', "waits for Kafka, Redis or ClickHouse", "warehouse.log"),
        ('headwater_view_failing{view="lab.broken"} 1.0\n', "views that fail: lab.broken", "Views of your own"),
    ],
)
def test_what_a_worker_waits_for_is_named(tmp_path: Path, page: str, text: str, advice: str) -> None:
    """Out of its metrics, served by a real server; a 0 is nothing."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(('headwater_waiting{service="redis",stage="warehouse"} 0.0\n' + page).encode())

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        findings = check_worker(tmp_path, os.getpid(), name="warehouse", port=server.server_port, log="warehouse.log")
    finally:
        server.shutdown()
        server.server_close()
    assert (findings[0].check, findings[0].grade) == ("warehouse", Grade.WARN)
    assert text in findings[0].detail
    assert "Redis" not in findings[0].detail or "Kafka, Redis" in text
    assert advice in findings[0].advice
    assert [finding.check for finding in findings] == ["warehouse", "warehouse rows"]


def test_rows_of_a_clickhouse_that_is_away_are_a_warning(tmp_path: Path) -> None:
    """Without ClickHouse the check is a warning."""
    finding = services.check_warehouse_rows(load_settings(state_dir=tmp_path, clickhouse="http://127.0.0.1:9"))
    assert (finding.grade, finding.detail.startswith("not known")) == (Grade.WARN, True)


def test_killed_house_is_noticed(tmp_path: Path) -> None:
    """A services.json of a killed `up` is a warning."""
    assert "was killed" in check_worker(tmp_path, 2**22 + 1)[0].detail


@pytest.fixture
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HEADWATER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HEADWATER_STATE_DIR", str(tmp_path))


@pytest.mark.usefixtures("_elsewhere")
def test_command_exits_1_on_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that cannot work makes the exit code 1, in words and in JSON."""
    findings = [CheckResult("java", Grade.FAIL, "none", "install it")]
    monkeypatch.setattr(doctor, "run_checks", lambda _: findings)
    words = CliRunner().invoke(doctor.app, [])
    assert words.exit_code == 1
    assert "FAIL java  none" in words.output
    assert "-> install it" in words.output
    printed = CliRunner().invoke(doctor.app, ["--json"])
    assert printed.exit_code == 1
    assert json.loads(printed.output) == [{"what": "java", "grade": "FAIL", "found": "none", "advice": "install it"}]
    findings[0] = CheckResult("java", Grade.OK, "25")
    assert CliRunner().invoke(doctor.app, []).exit_code == 0


def test_origins_that_are_not_listed_are_told() -> None:
    """By name, the most frequent first; times of creation are no counts."""
    page = (
        'headwater_origin_unlisted_total{origin="https://a.example"} 3.0\n'
        'headwater_origin_unlisted_created{origin="https://a.example"} 1.7e+09\n'
        'headwater_origin_unlisted_total{origin="https://b.example"} 12.0\n'
    )
    assert _unlisted_origins(page) == "https://b.example, https://a.example"
    assert _unlisted_origins("") == ""
