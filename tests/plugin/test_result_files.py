# SPDX-License-Identifier: GPL-2.0-only
"""--iommu-json, --iommu-ktap and --junitxml in whole runs: they tell the same, however a run ends."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any
from xml.etree import ElementTree

import pytest
from bench import Bench
from ktap_reader import Line, read

from pytest_iommu.core.outcomes import KernelCrash
from pytest_iommu.core.protocol import Evidence
from pytest_iommu.report.results import SCHEMA_FILE

SPLAT = (
    "[    3.0] ------------[ cut here ]------------\n"
    "[    3.0] Kernel panic - not syncing: Fatal exception\n"
    "[    3.0] Call trace:\n"
    "[    3.0]  show_stack+0x18/0x24 (C)\n"
    "[    3.0]  panic+0x5c/0x60\n"
    "[    3.0]  ptd_show+0x10c/0x2a0\n"
    "[    3.0]  vfs_read+0x17c/0x91c\n"
    "[    3.0] ---[ end Kernel panic - not syncing: Fatal exception ]---\n"
)
PANIC = KernelCrash("panic while it ran a batch: Kernel panic", Evidence("qemu", f"[    0.0] Booting\n{SPLAT}", SPLAT))
FINGERPRINT = "panic:ptd_show:vfs_read"
CASE = """\
  - name: case-{number}
    rules: [RNG-1, RNG-4]
    do:
      - map: {{iova: 0x{number}000, pa: 0x41000000, size: 4K, prot: rw}}
"""
FILES = ("--iommu-json=r.json", "--iommu-ktap=r.ktap", "--junitxml=r.xml")


class Results:
    """What a run wrote, each in its own words."""

    def __init__(self, bench: Bench) -> None:
        folder = bench.pytester.path
        self.json: dict[str, Any] = json.loads((folder / "r.json").read_text())
        jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema, of the extra `dev`")
        jsonschema.validate(self.json, json.loads(SCHEMA_FILE.read_text()))
        self.groups, self.ktap = read((folder / "r.ktap").read_text())
        self.suite = ElementTree.parse(folder / "r.xml").getroot()[0]

    @property
    def outcomes(self) -> list[str]:
        return [test["outcome"] for test in self.json["tests"]]

    @property
    def lines(self) -> list[Line]:
        return [line for lines in self.ktap.values() for line in lines]

    @property
    def junit(self) -> dict[str, str]:
        """Test -> how it ended, by JUnit."""
        found = {}
        for case in self.suite.iter("testcase"):
            inner = [node for node in case if node.tag != "properties"]
            found[f"{case.get('classname')}::{case.get('name')}"] = inner[0].tag if inner else "passed"
            found |= {f"{case.get('classname')}::{case.get('name')}": "not-run"} if _not_run(inner) else {}
        return found

    def properties(self, name: str = "") -> dict[str, str]:
        """Those of the suite, or of the test of that name."""
        node = next(case for case in self.suite.iter("testcase") if case.get("name") == name) if name else self.suite
        return {one.get("name", ""): one.get("value", "") for one in node.findall("properties/property")}

    def agree(self) -> None:
        """All three have the same tests with the same outcomes."""
        status = {"passed": "ok", "failed": "not ok", "skipped": "SKIP", "xfailed": "XFAIL", "not-run": "SKIP"}
        assert [line.status for line in self.lines] == [status[outcome] for outcome in self.outcomes]
        assert [f"{group}.{line.name}" for group, lines in self.ktap.items() for line in lines] == [
            test["name"] for test in self.json["tests"]
        ]
        mine = Counter("skipped" if outcome == "xfailed" else outcome for outcome in self.outcomes)
        theirs = Counter({"failure": "failed", "error": "failed"}.get(tag, tag) for tag in self.junit.values())
        assert mine == theirs
        assert int(self.suite.get("tests", "")) == len(self.outcomes)


def _not_run(nodes: list[ElementTree.Element]) -> bool:
    return bool(nodes) and nodes[0].tag == "skipped" and nodes[0].get("message", "").startswith("not run: ")


@pytest.fixture
def twenty(bench: Bench) -> Bench:
    """20 tests, and a kernel that panics in the 7th."""
    head = "suite: many\ndefaults: {machines: [smmuv3], stages: [s1], granule: 4K, timeout: 10s}\ncases:\n"
    bench.scenarios.write_text(head + "".join(CASE.format(number=number) for number in range(1, 21)))
    bench.record(endings={"case-7": PANIC})
    return bench


def test_a_panic_in_test_7_of_20_when_the_run_ends_there(twenty: Bench) -> None:
    result = twenty.run(*FILES, "-x")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    found = Results(twenty)
    found.agree()
    assert found.outcomes == 6 * ["passed"] + ["failed"] + 13 * ["not-run"]
    crash = found.json["tests"][6]
    assert (crash["kind"], crash["fingerprint"]) == ("kernel-crash", FINGERPRINT)
    assert found.json["counts"] == {"passed": 6, "failed": 1, "skipped": 0, "xfailed": 0, "not-run": 13}
    assert found.json["run"]["ended"] == "stopping after 1 failures"
    line = found.lines[6]
    assert (line.directive, line.data) == ("ERROR", "kernel-crash: panic while it ran a batch: Kernel panic")
    assert f"fingerprint: {FINGERPRINT}" in line.diagnostics
    left = found.json["tests"][7]
    assert left["reason"] == f"not run: the run ended after {crash['id']}: stopping after 1 failures"
    assert left["rules"][:3] == ["RNG-1", "RNG-4", "TAB-1"]  # nobody knows yet what its guest can be asked
    assert left["guest"] == {"machine": "smmuv3", "flavour": "plain", "manner": "functional"}
    assert {line.data for line in found.lines[7:]} == {left["reason"]}
    assert list(found.junit.values()) == 6 * ["passed"] + ["failure"] + 13 * ["not-run"]
    assert found.properties()["iommu_ended"] == "stopping after 1 failures"
    assert found.properties("case-8[smmuv3-s1-4k]") == {
        "iommu_rules": ",".join(left["rules"]),
        "iommu_guest": "smmuv3/plain",
        "iommu_outcome": "not-run",
    }


def test_a_panic_in_test_7_of_20_with_workers(twenty: Bench) -> None:
    result = twenty.run(*FILES, "-x", "-n2")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    found = Results(twenty)
    found.agree()
    # One shard, one worker: what it did not get to nobody did.
    assert found.outcomes == 6 * ["passed"] + ["failed"] + 13 * ["not-run"]
    assert found.json["tests"][19]["rules"][:2] == ["RNG-1", "RNG-4"]
    assert found.properties("case-20[smmuv3-s1-4k]")["iommu_outcome"] == "not-run"


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_the_others_run_on_a_fresh_guest(twenty: Bench, workers: str) -> None:
    result = twenty.run(*FILES, workers)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"fingerprint: {FINGERPRINT}", "first kernel report:"])
    found = Results(twenty)
    found.agree()
    assert found.outcomes == 6 * ["passed"] + ["failed"] + 13 * ["passed"]
    assert found.properties("case-7[smmuv3-s1-4k]") == {
        "iommu_rules": "RNG-1,RNG-4",
        "iommu_guest": "smmuv3/plain",
        "iommu_outcome": "kernel-crash",
        "iommu_verdict": "kernel-crash",
        "iommu_broken": "LAY-7,RNG-1,RNG-4",
        "iommu_fingerprint": FINGERPRINT,
    }
    assert found.properties("case-8[smmuv3-s1-4k]") == {"iommu_rules": "RNG-1,RNG-4", "iommu_guest": "smmuv3/plain"}
    assert found.json["run"]["ended"] is None
    assert found.json["guests"] == [{"machine": "smmuv3", "flavour": "plain", "kernel": None, "qemu": None}]


def test_all_but_times_is_the_same_with_any_number_of_workers(twenty: Bench) -> None:
    documents, texts = [], []
    for workers in ("-n0", "-n2"):
        twenty.run(*FILES, workers, "--iommu-keep=none")
        found = Results(twenty).json
        for what in (found["run"], *found["tests"]):
            what.update(started="", seconds=0)
        documents.append(found)
        texts.append((twenty.pytester.path / "r.ktap").read_text())
    assert documents[0] == documents[1]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_what_was_tested_is_said(recorded: Bench, workers: str) -> None:
    recorded.pytester.makeconftest(
        f"""
        from pathlib import Path
        from pytest_iommu.images import Artefacts, Qemu
        from pytest_iommu.targets.registry import TargetKind
        from pytest_iommu.targets.replay import ReplayTarget

        def make(settings, machine, key, kernel):
            return ReplayTarget(Path({str(recorded.recording)!r}), key)

        def pytest_iommu_targets(config):
            return {{"mine": TargetKind(make, live=False)}}

        def pytest_iommu_kernel(config, machine, flavour, progress):
            qemu = Qemu(("qemu",), "10.0.0", origin="mine")
            return Artefacts(machine.name, flavour, Path("Image"), Path("initrd"), qemu, "Linux of mine")
        """
    )
    recorded.pytester.runpytest_subprocess("--iommu-target=mine:x", "--iommu-seed=7", workers, *FILES)
    found = Results(recorded)
    found.agree()
    (guest,) = found.json["guests"]
    assert (guest["machine"], guest["kernel"]) == ("smmuv3", "Linux of mine")
    assert found.properties() == {
        "iommu_target": "mine:x",
        "iommu_seed": "7",
        "iommu_guest.smmuv3/plain.machine": "smmuv3",
        "iommu_guest.smmuv3/plain.flavour": "plain",
        "iommu_guest.smmuv3/plain.kernel": "Linux of mine",
        "iommu_guest.smmuv3/plain.qemu": guest["qemu"],
    }
    assert "QEMU 10.0.0" in guest["qemu"]
    header = (recorded.pytester.path / "r.ktap").read_text().splitlines()[1:3]
    assert header == [
        "# pytest-iommu 0.1.0, target mine:x",
        f"# machine smmuv3, flavour plain: Linux of mine; {guest['qemu']}",
    ]


# With workers Ctrl-C reaches the controller while a worker's test still runs, and no report is on its way.
CTRL_C = {
    "-n0": "def test_z(): raise KeyboardInterrupt",
    "-n2": """import os, pathlib, signal, time

def test_z():
    signal.alarm(600)  # a failure, and no run that never ends
    while not list(pathlib.Path().glob("reported-*")):
        time.sleep(0.01)
    os.kill(os.getppid(), signal.SIGINT)
    while True:
        signal.pause()  # until the controller ends this worker
""",
}


@pytest.mark.parametrize("workers", CTRL_C)
def test_what_there_is_of_an_interrupted_run_is_written(recorded: Bench, workers: str) -> None:
    recorded.pytester.makepyfile(test_a="def test_a(): pass", test_z=CTRL_C[workers])
    recorded.tell_reports()
    result = recorded.run(*FILES, workers, "test_a.py", "test_z.py", "basics.iommu.yaml")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    found = Results(recorded)
    found.agree()
    by_id = {test["id"]: test for test in found.json["tests"]}
    assert len(by_id) == 7
    assert by_id["test_z.py::test_z"]["outcome"] == "not-run"
    assert by_id["test_z.py::test_z"]["reason"] == "not run: the run ended: interrupted"
    assert (by_id["pytest-iommu::run"]["outcome"], by_id["pytest-iommu::run"]["kind"]) == ("failed", "interrupted")
    assert found.json["run"]["exit_status"] == 2
    if workers == "-n0":
        assert found.outcomes == ["passed"] + 5 * ["not-run"] + ["failed"]


def test_a_run_without_failures_that_was_ended_has_failed(recorded: Bench) -> None:
    recorded.pytester.makepyfile(test_a="import pytest\n\ndef test_a(): pytest.exit('enough', returncode=9)")
    assert recorded.run(*FILES, "test_a.py", "basics.iommu.yaml").ret == 9
    found = Results(recorded)
    found.agree()
    assert found.json["run"] | {"started": 0, "seconds": 0, "target": ""} == {
        "version": "0.1.0",
        "target": "",
        "seed": 100,
        "started": 0,
        "seconds": 0,
        "exit_status": 9,
        "ended": "enough",
        "judged": [],
    }
    assert found.groups[-1].status == "not ok"
    assert found.lines[-1].data == "interrupted: enough"


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_kernel_that_cannot_be_had_is_in_all_files(recorded: Bench, workers: str) -> None:
    recorded.pytester.makeconftest(
        """
        from pytest_iommu.core.outcomes import SetupError

        def pytest_iommu_kernel(config, machine, flavour):
            raise SetupError("the kernel does not build:\\nfoo.c:1: error")
        """
    )
    result = recorded.pytester.runpytest_subprocess("--iommu-target=qemu", workers, *FILES)
    assert result.ret == 6
    found = Results(recorded)
    found.agree()
    assert found.json["run"]["exit_status"] == 6
    last = found.json["tests"][-1]
    assert (last["id"], last["kind"]) == ("pytest-iommu::run", "setup-error")
    assert found.lines[-1].data == "setup-error: the kernel does not build:"


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_file_that_cannot_be_collected(recorded: Bench, workers: str) -> None:
    recorded.pytester.path.joinpath("wrong.iommu.yaml").write_text("suite: wrong\ncases: 1\n")
    result = recorded.run(*FILES, workers)
    # xdist runs the others, pytest does not.
    assert result.ret == (pytest.ExitCode.INTERRUPTED if workers == "-n0" else pytest.ExitCode.TESTS_FAILED)
    found = Results(recorded)
    found.agree()
    by_name = {test["name"]: test for test in found.json["tests"]}
    assert by_name["wrong.collection"]["kind"] == "setup-error"
    assert "wrong.iommu.yaml:2" in by_name["wrong.collection"]["text"]
    others = {test["outcome"] for name, test in by_name.items() if name != "wrong.collection"}
    assert others == ({"not-run"} if workers == "-n0" else {"passed", "skipped"})


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_tests_that_are_run_again(bench: Bench, monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    """By pytest-rerunfailures; those before the last time count for nothing."""
    monkeypatch.setenv("PYTEST_ADDOPTS", os.environ["PYTEST_ADDOPTS"].replace("-pno:rerunfailures", ""))
    bench.record(lambda case, file, text: text.replace("0x0000000041001000", "0x0000000041002000"))
    result = bench.run(*FILES, workers, "--reruns=2")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2, failed=1, skipped=1)
    result.stdout.fnmatch_lines(["*2 rerun*"])
    found = Results(bench)
    assert found.json["counts"] == {"passed": 2, "failed": 1, "skipped": 1, "xfailed": 0, "not-run": 0}


def test_a_worker_that_dies(recorded: Bench) -> None:
    recorded.pytester.makepyfile(test_a="import os\n\ndef test_a(): os._exit(1)")
    result = recorded.run(*FILES, "-n2")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    found = Results(recorded)
    found.agree()
    by_id = {test["id"]: test for test in found.json["tests"]}
    assert (by_id["test_a.py::test_a"]["kind"], by_id["test_a.py::test_a"]["guest"]) == ("test-error", None)
    assert found.json["counts"]["passed"] == 3


def test_a_listing_writes_nothing(recorded: Bench) -> None:
    recorded.run("--iommu-list", "--iommu-json=r.json", "--iommu-ktap=r.ktap")
    recorded.run("--collect-only", "--iommu-json=r.json", "--iommu-ktap=r.ktap")
    assert not list(recorded.pytester.path.glob("r.*"))


@pytest.mark.parametrize("option", ["--iommu-json", "--iommu-ktap"])
def test_a_file_that_cannot_be_written(recorded: Bench, option: str) -> None:
    (recorded.pytester.path / "file").write_text("")
    result = recorded.run(f"{option}=file/out")
    result.stdout.fnmatch_lines([f"iommu: {option}=*/file/out cannot be written: *"])
    assert result.ret == 6


def test_ini_twins_and_directories_that_are_made(recorded: Bench) -> None:
    recorded.pytester.makeini("[pytest]\niommu_json = out/r.json\niommu_ktap = out/r.ktap\n")
    recorded.run().assert_outcomes(passed=3, skipped=1)
    assert sorted(path.name for path in (recorded.pytester.path / "out").iterdir()) == ["r.json", "r.ktap"]
