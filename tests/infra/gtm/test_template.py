"""The tag template, checked as far as it can be without Google: file, syntax, permissions and scenarios."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.infra.gtm.checker import FOLDER, TEMPLATE, Checker, node_and_npm


def test_the_template_is_in_order_and_all_its_scenarios_pass(findings: dict[str, Any]) -> None:
    """Sections, syntax and permissions hold, and each scenario does what it says."""
    assert findings["problems"] == []
    assert [scenario for scenario in findings["scenarios"] if not scenario["passed"]] == []
    assert len(findings["scenarios"]) >= 20
    assert findings["ok"]


def swap(old: str, new: str) -> Callable[[str], str]:
    """A change of text that must be there."""

    def change(template: str) -> str:
        assert old in template
        return template.replace(old, new, 1)

    return change


def permissions(change: Callable[[list[Any]], list[Any]]) -> Callable[[str], str]:
    """A change of the list of permissions."""

    def changed(template: str) -> str:
        before, rest = template.split("___SERVER_PERMISSIONS___", 1)
        section, after = rest.split("___TESTS___", 1)
        return f"{before}___SERVER_PERMISSIONS___\n\n{json.dumps(change(json.loads(section)))}\n\n___TESTS___{after}"

    return changed


def without(name: str) -> Callable[[list[Any]], list[Any]]:
    """The permissions but this one."""
    return lambda items: [permission for permission in items if permission["instance"]["key"]["publicId"] != name]


def open_cookies(items: list[Any]) -> list[Any]:
    """Every cookie instead of the named one."""
    for permission in items:
        for parameter in permission["instance"]["param"]:
            if parameter["key"] == "cookieAccess":
                parameter["value"]["string"] = "any"
    return items


UNUSED = {"instance": {"key": {"publicId": "access_response", "versionId": "1"}, "param": []}, "isRequired": True}
BASE = "const base = makeString(data.collectorUrl);"
GPC = "getRequestHeader('Sec-GPC')"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (swap(BASE, "const base = new Object(data.collectorUrl);"), "new is not allowed"),
        (swap(BASE, "const base = this.collectorUrl;"), "this is not allowed"),
        (swap(BASE, "const base = makeString(data.collectorUrl).replace(/x/, '');"), "a regex literal is not allowed"),
        (swap(BASE, "const base = `${data.collectorUrl}`;"), "a template literal is not allowed"),
        (swap(BASE, BASE + " class Base {}"), "class is not allowed"),
        (swap("const send = (event)", "const send = async (event)"), "async is not allowed"),
        (swap(BASE, "const base = makeString(data?.collectorUrl);"), "optional chaining is not allowed"),
        (swap(BASE, "const base = makeString.constructor(data.collectorUrl);"), "constructor is not allowed"),
        (swap("getTimestampMillis();", "Date.now();"), "Date is no name"),
        (swap(BASE, "const base = ;"), "Unexpected token"),
        (swap("require('makeInteger')", "require('parseInteger')"), "parseInteger is no API"),
        (swap(BASE, "const base = require(data.collectorUrl);"), "at the top"),
        (permissions(without("logging")), "logToConsole needs the permission logging"),
        (permissions(without("get_cookies")), "getCookieValues needs the permission get_cookies"),
        (permissions(lambda items: [*items, UNUSED]), "no API needs the permission access_response"),
        (swap('"headersAllowed"', '"remoteAddressAllowed"'), "no API needs read_request's remoteAddressAllowed"),
        (swap(GPC, "getRequestHeader('X-Forwarded-For')"), "the header X-Forwarded-For is not named"),
        (swap(GPC, "getRequestHeader(event.header)"), "name that stands in the code"),
        (swap(GPC, "'1'"), "names the header sec-gpc, which is not read"),
        (swap("getCookieValues('euconsent-v2')", "getCookieValues('session')"), "the cookie session is not named"),
        (permissions(without("set_cookies")), "setCookie needs the permission set_cookies"),
        (swap("setCookie('hw_id'", "setCookie('session'"), "the cookie session is not named in set_cookies"),
        (swap("setCookie('hw_id'", "setCookie(data.name"), "setCookie must be called with a cookie's name"),
        (swap(GPC, "[getRequestHeader].length"), "name that stands in the code"),
        (permissions(open_cookies), "get_cookies must name each cookie"),
        (swap("data.writeKey", "data.key"), "data.key is no parameter"),
        (swap('"type": "TAG",', '"type": "TAG"'), "INFO, after line"),
        (swap('"SERVER"', '"WEB"'), "SERVER containers"),
        (swap("___NOTES___", ""), "the section NOTES is missing"),
        (swap("- name: An answer of 500", "  - name: An answer of 500"), "TESTS, after line"),
        (swap("world.answer = {statusCode: 500};", "world.answer = new Object();"), 'scenario "An answer of 500'),
    ],
)
def test_a_template_that_google_would_refuse_is_refused(
    checker: Checker, tmp_path: Path, change: Callable[[str], str], complaint: str
) -> None:
    """Each way of breaking the file, the syntax or the permissions is named."""
    status, report = checker.check(change(TEMPLATE), tmp_path / "broken.tpl")
    assert status == 1
    assert complaint in "\n".join(report["problems"])


@pytest.mark.parametrize(
    ("change", "scenario", "complaint"),
    [
        (swap("{gpc: '1', 'gpc#2': '0'}", "{gpc: '1'}"), "Sec-GPC of the visitor", "is not equal to"),
        (swap("'authorization', ", ""), "Cookies and Authorization", "contains"),
        (swap("['x-ga-gcs', 'gcs']", "['gcs']"), "Consent Mode is forwarded", "is not equal to"),
        (
            swap("isScalar(value) ? makeString(value) : value;", "'granted';"),
            "A consent platform",
            "granted",
        ),
        (swap("answer.statusCode === 200", "answer.statusCode < 600"), "An answer of 500", "gtmOnFailure was not called"),
        (
            swap(", () => failed('the collector did not answer in time')", ", () => data.gtmOnSuccess()"),
            "No answer in time",
            "gtmOnFailure",
        ),
        (swap("https://*/v1/events", "https://*.example.org/*"), "An answer of 204", "send_http does not cover"),
        (swap("mock('getCookieValues',", "mock('getGoogleAuth',"), "Without signals", "the scenario does not mock it"),
    ],
)
def test_a_template_that_does_the_wrong_thing_fails_a_scenario(
    checker: Checker, tmp_path: Path, change: Callable[[str], str], scenario: str, complaint: str
) -> None:
    """The scenarios notice: what they fail on is named."""
    status, report = checker.check(change(TEMPLATE), tmp_path / "wrong.tpl")
    failed = [result for result in report["scenarios"] if not result["passed"]]
    assert (status, report["problems"]) == (1, [])
    assert any(result["name"].startswith(scenario) and complaint in result["problem"] for result in failed), failed


def test_packages_are_locked_by_their_content() -> None:
    """Whoever serves them: the lock names a hash for each, and no address."""
    packages = json.loads((FOLDER / "package-lock.json").read_text())["packages"]
    assert all(package.get("integrity", "").startswith("sha512-") for name, package in packages.items() if name)
    assert not any("resolved" in package for package in packages.values())


def test_people_get_a_line_for_each_scenario_and_help_with_an_example(checker: Checker) -> None:
    """Without --json the output is read by people; a wrong call has a status of its own."""
    lines = checker.call().stdout.splitlines()
    assert lines[0] == "passed  Consent Mode is forwarded as it came"
    assert lines[-1].startswith("ok: ")
    shown = checker.call("--help")
    assert (shown.returncode, "Example:" in shown.stdout) == (0, True)
    assert checker.call("--what").returncode == checker.call("no-such.tpl").returncode == 2


def test_without_node_on_the_path_the_wheels_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without Node can run these tests."""
    monkeypatch.setenv("PATH", str(tmp_path))
    node, npm = node_and_npm()
    for command in (node, npm):
        run = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, check=True, timeout=60, env=dict(os.environ)
        )
        assert run.stdout.strip()
