# SPDX-License-Identifier: GPL-2.0-only
"""Runs that a signal ends, or two: their results are written, and do not look complete."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any
from xml.etree import ElementTree

import pytest
from bench import Bench
from ktap_reader import read

FILES = ("--iommu-json=r.json", "--iommu-ktap=r.ktap", "--iommu-report=r", "--junitxml=r.xml")
STATUS = {"SIGINT": 2, "SIGTERM": 143, "SIGHUP": 129}

HERE = """
import os, signal

def test_z():
    os.kill(os.getpid(), signal.{name})
"""
CONTROLLER = """
import os, pathlib, signal, time

def test_z():
    signal.alarm(600)  # a failure, and no run that never ends
    while not list(pathlib.Path().glob("reported-*")):
        time.sleep(0.01)
    os.kill(os.getppid(), signal.{name})
    while True:
        signal.pause()  # until the controller ends this worker
"""


class Ended:
    """The files of a run that was ended."""

    def __init__(self, bench: Bench) -> None:
        folder = bench.pytester.path
        self.json: dict[str, Any] = json.loads((folder / "r.json").read_text())
        groups, _ = read((folder / "r.ktap").read_text())
        self.ktap = groups[-1].status
        self.report = json.loads((folder / "r" / "rules.json").read_text())
        self.suite = ElementTree.parse(folder / "r.xml").getroot()[0]

    def by(self, what: str, status: int) -> None:
        """All files say that the run was ended, by this, and that this is a failure."""
        assert (self.json["run"]["ended"], self.json["run"]["exit_status"]) == (what, status)
        (run,) = [test for test in self.json["tests"] if test["id"] == "pytest-iommu::run"]
        assert (run["outcome"], run["kind"], run["text"]) == ("failed", "interrupted", f"interrupted: {what}")
        assert self.ktap == "not ok"
        assert {"test": "pytest-iommu::run", "kind": "interrupted"} in self.report["other_failures"]
        cases = {f"{case.get('classname')}::{case.get('name')}": case for case in self.suite.iter("testcase")}
        assert cases["pytest-iommu::run"].find("failure") is not None
        properties = {one.get("name"): one.get("value") for one in self.suite.findall("properties/property")}
        assert properties["iommu_ended"] == what
        assert len(cases) == len(self.json["tests"])


def write_tests(bench: Bench, source: str) -> None:
    bench.pytester.makepyfile(test_a="def test_a(): pass", test_z=source)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_signal_ends_a_run_as_ctrl_c_does(recorded: Bench, workers: str, name: str) -> None:
    write_tests(recorded, (HERE if workers == "-n0" else CONTROLLER).format(name=name))
    recorded.tell_reports()
    result = recorded.run(*FILES, workers, "test_a.py", "test_z.py", "basics.iommu.yaml")
    assert result.ret == STATUS[name]
    found = Ended(recorded)
    found.by(name, STATUS[name])
    outcomes = {test["id"]: test["outcome"] for test in found.json["tests"]}
    assert outcomes["test_z.py::test_z"] == "not-run"
    # What was reported before: test_a, or with workers whatever came first.
    assert {"passed", "skipped"} & set(outcomes.values())


def test_a_signal_to_a_worker(recorded: Bench) -> None:
    write_tests(recorded, HERE.format(name="SIGTERM"))
    result = recorded.run(*FILES, "-n2", "test_a.py", "test_z.py")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    found = Ended(recorded)
    ended = found.json["run"]["ended"]
    assert ended.endswith("received keyboard-interrupt")
    found.by(ended, 2)


def test_a_signal_before_the_first_test(recorded: Bench) -> None:
    """While a kernel is built, say."""
    recorded.pytester.makeconftest(
        """
        import os, signal

        def pytest_iommu_kernel(config, machine, flavour):
            os.kill(os.getpid(), signal.SIGTERM)
        """
    )
    for workers in ("-n0", "-n2"):
        result = recorded.pytester.runpytest_subprocess("--iommu-target=qemu", workers, *FILES)
        assert result.ret == STATUS["SIGTERM"]
        Ended(recorded).by("SIGTERM", STATUS["SIGTERM"])


def test_a_run_under_nohup_does_not_end(recorded: Bench) -> None:
    write_tests(recorded, HERE.format(name="SIGHUP"))
    command = [sys.executable, "-m", "pytest", f"--iommu-target=replay:{recorded.recording}"]
    result = recorded.pytester.run("sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command)
    result.assert_outcomes(passed=5, skipped=1)


def test_handlers_of_others_stay(recorded: Bench) -> None:
    write_tests(recorded, HERE.format(name="SIGTERM"))
    recorded.pytester.makeconftest(
        """
        import signal

        signal.signal(signal.SIGTERM, lambda *_: print("MINE"))
        """
    )
    result = recorded.run("-s")
    result.assert_outcomes(passed=5, skipped=1)
    result.stdout.fnmatch_lines(["*MINE*"])


SECOND = {
    "before pytest has told of the first": """
        @pytest.hookimpl(tryfirst=True)
        def pytest_keyboard_interrupt(excinfo):
            os.kill(os.getpid(), signal.SIGINT)
        """,
    "before a plugin ends": """
        @pytest.hookimpl(wrapper=True, tryfirst=True)
        def pytest_sessionfinish(session):
            os.kill(os.getpid(), signal.SIGINT)
            return (yield)
        """,
    "before the JUnit file is written": """
        @pytest.hookimpl(tryfirst=True)
        def pytest_sessionfinish(session):
            os.kill(os.getpid(), signal.SIGINT)
        """,
    "while the files are written": """
        from pytest_iommu.report import results

        before = results.document

        def document(*arguments):
            os.kill(os.getpid(), signal.SIGINT)
            return before(*arguments)

        results.document = document
        """,
    "while a fixture is torn down": """
        @pytest.fixture(scope="session", autouse=True)
        def mine():
            yield
            os.kill(os.getpid(), signal.SIGINT)
        """,
}


@pytest.mark.parametrize("when", SECOND)
def test_ctrl_c_twice(recorded: Bench, when: str) -> None:
    write_tests(recorded, HERE.format(name="SIGINT"))
    lines = ["import os, signal", "import pytest", *SECOND[when].strip("\n").splitlines()]
    recorded.pytester.makeconftest("\n".join(line.removeprefix("        ") for line in lines))
    result = recorded.run(*FILES, "test_a.py", "test_z.py", "basics.iommu.yaml")
    assert result.ret != 0
    found = Ended(recorded)
    found.by("interrupted", 2)
    outcomes = [test["outcome"] for test in found.json["tests"]]
    assert outcomes == ["passed", *["not-run"] * 5, "failed"]


def test_ctrl_c_twice_with_workers(recorded: Bench) -> None:
    """The second while the controller waits for its workers to end."""
    write_tests(recorded, CONTROLLER.format(name="SIGINT"))
    recorded.tell_reports()
    conftest = recorded.pytester.path / "conftest.py"
    conftest.write_text(
        conftest.read_text()
        + "\n    import os, signal\n"
        + "    from xdist.workermanage import NodeManager\n"
        + "    NodeManager.teardown_nodes = lambda self: os.kill(os.getpid(), signal.SIGINT)\n"
    )
    result = recorded.run(*FILES, "-n2", "test_a.py", "test_z.py", "basics.iommu.yaml")
    assert result.ret != 0
    Ended(recorded).by("interrupted", 2)


def test_a_run_that_is_killed_leaves_no_files_of_an_earlier_one(recorded: Bench) -> None:
    recorded.run(*FILES)
    assert sorted(path.name for path in recorded.pytester.path.glob("r.*")) == ["r.json", "r.ktap", "r.xml"]
    write_tests(recorded, HERE.format(name="SIGKILL"))
    assert recorded.run(*FILES[:3]).ret == -signal.SIGKILL
    assert sorted(path.name for path in recorded.pytester.path.glob("r.*")) == ["r.xml"]
    assert not list((recorded.pytester.path / "r").iterdir())


def test_a_listing_removes_nothing(recorded: Bench) -> None:
    recorded.run(*FILES[:3])
    recorded.run(*FILES[:3], "--collect-only")
    recorded.run(*FILES[:3], "--iommu-list")
    assert sorted(path.name for path in recorded.pytester.path.glob("r.*")) == ["r.json", "r.ktap"]
