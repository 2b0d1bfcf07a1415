"""The users file of the cluster's ClickHouse, read by the engine."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[6]
USERS = ROOT / "infra/deploy/compose/clickhouse-users.xml"
# What the image brings along: `default` and the quota that the file refers to.
IMAGE = (
    "<clickhouse><profiles><default/></profiles><quotas><default/></quotas><users><default><password/><networks><ip>::/0</ip>"
    "</networks><profile>default</profile><quota>default</quota><access_management>1</access_management></default></users></clickhouse>"
)
QUERIES = """
import sys, chdb
connection = chdb._chdb.connect(sys.argv[1])
for query in ("SELECT groupArray(name) FROM (SELECT name FROM system.users ORDER BY name)", "SHOW GRANTS FOR reader",
              "SELECT value FROM system.settings_profile_elements WHERE profile_name = 'reader' AND setting_name = 'readonly'"):
    print(connection.query(query, "TSVRaw").bytes().decode().rstrip())
"""


def test_users_are_valid_and_the_reader_only_reads(tmp_path: Path) -> None:
    """The engine loads the file with passwords of the environment: two users for people, one with reading grants alone."""
    users = tmp_path / "users.xml"
    users.write_text(IMAGE)
    (tmp_path / "users.d").mkdir()
    (tmp_path / "users.d/people.xml").write_text(USERS.read_text())
    config = tmp_path / "config.xml"
    config.write_text(f"<clickhouse><users_config>{users}</users_config></clickhouse>")
    passwords = {"CLICKHOUSE_READER_PASSWORD": "r", "CLICKHOUSE_ANALYST_PASSWORD": "a"}
    run = subprocess.run(
        [sys.executable, "-c", QUERIES, f"{tmp_path / 'data'}?config-file={config}"],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **passwords},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    names, *grants, readonly = run.stdout.splitlines()
    assert names == "['analyst','default','reader']"
    assert sorted(grants) == [
        "GRANT SELECT ON system.processes TO reader",
        "GRANT SHOW, SELECT, dictGet ON headwater.* TO reader",
    ]
    assert readonly == "2"


def test_container_gets_the_file_and_its_passwords() -> None:
    """What the file takes from the environment is set there, and it is mounted read-only."""
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["clickhouse"]
    for variable in ("CLICKHOUSE_READER_PASSWORD", "CLICKHOUSE_ANALYST_PASSWORD"):
        assert f'from_env="{variable}"' in USERS.read_text()
        assert service["environment"][variable].startswith("${" + variable)
    assert (
        "./infra/deploy/compose/clickhouse-users.xml:/etc/clickhouse-server/users.d/headwater-people.xml:ro"
        in service["volumes"]
    )
