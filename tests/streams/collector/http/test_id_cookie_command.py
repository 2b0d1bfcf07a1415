"""`headwater collect` sets the id cookie as its options and settings say, while Kafka is away."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import requests

from infra.ops.embedded.ports import free_port
from streams.collector.write_keys import KeyKind, create_key

DEADLINE_S = 90


def answer_of(url: str, key: str) -> requests.Response:
    """Post an event that grants storage as soon as the collector answers."""
    deadline = time.monotonic() + DEADLINE_S
    body: Any = {"event_name": "page_view", "consent": {"cmp.analytics": "granted"}}
    while True:
        try:
            return requests.post(f"{url}/v1/events", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=20)
        except requests.ConnectionError:
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.1)


def test_the_command_sets_the_cookie_and_logs_nothing_of_it(tmp_path: Path) -> None:
    """The name comes from the setting, the days from the option; the spool has no clear value either."""
    key = create_key(tmp_path / "write-keys.json", "web", site="shop.example", kind=KeyKind.BROWSER)
    environment = {
        **os.environ,
        "HEADWATER_KAFKA": "127.0.0.1:1",
        "HEADWATER_STATE_DIR": str(tmp_path),
        "HEADWATER_SECRET": "for tests only, forty characters long...",
        "HEADWATER_ID_COOKIE": "visitor",
    }
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "infra.ops.cli",
        "collect",
        "--port",
        str(port),
        "--budget",
        "0.2",
        "--id-cookie-days",
        "30",
    ]
    with (tmp_path / "collector.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        answer = answer_of(f"http://127.0.0.1:{port}", key)
    finally:
        process.terminate()
        process.wait(30)
    assert answer.status_code == 200
    match = re.fullmatch(r"visitor=(hw1\.\S+); HttpOnly; Max-Age=2592000; Path=/; SameSite=Lax", answer.headers["Set-Cookie"])
    assert match is not None
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.name for path in files if match[1].encode() in path.read_bytes()] == []


def test_a_name_that_no_browser_accepts_stops_the_start(tmp_path: Path) -> None:
    """With the option's name, and no traceback."""
    command = [sys.executable, "-m", "infra.ops.cli", "collect", "--id-cookie", "a b"]
    environment = {**os.environ, "HEADWATER_STATE_DIR": str(tmp_path)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert result.returncode != 0
    assert result.stderr.startswith("headwater: --id-cookie must be a cookie's name")
