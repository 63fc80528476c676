# SPDX-License-Identifier: GPL-2.0-only
"""How a test on a guest can end besides passing and failing, and who is blamed: guests are fakes, all else is real."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest
from fake_target import CONFTEST

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Run a test file on a fake target: ``run(test, behaviour, *arguments)``; results are in results.json."""

    def start(test: str, behaviour: str = "def behave(guest, batch): pass", *arguments: str) -> pytest.RunResult:
        pytester.makeconftest(CONFTEST + behaviour)
        pytester.makepyfile(test)
        options = ["--iommu-target=fake", "--iommu-json=results.json", "-rA", "-p", "no:cacheprovider"]
        return pytester.runpytest_subprocess(*options, *arguments)

    return start


def results(pytester: pytest.Pytester) -> dict[str, dict[str, object]]:
    """Name of a test -> its row in the JSON."""
    document = json.loads((pytester.path / "results.json").read_text())
    return {row["id"].rpartition("::")[2]: row for row in document["tests"]}


# What the test returns or raises


def test_an_async_test_is_not_taken_for_a_function(run: Run) -> None:
    result = run("async def test_it(iommu_guest):\n    assert False\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*async def functions are not natively supported*"])


def test_a_test_that_returns_a_value_is_warned_of(run: Run) -> None:
    result = run("def test_it(iommu_guest):\n    return False\n")
    result.stdout.fnmatch_lines(["*PytestReturnNotNoneWarning: Test functions should return None*"])


RULED = """
    import pytest

    @pytest.mark.iommu_rules("RNG-1")
    def test_it(iommu_guest):
        {}
"""


@pytest.mark.parametrize(
    ("statement", "kind", "broke"),
    [
        ("assert 1 == 2", "fail", ["RNG-1"]),
        ("pytest.fail('wrong')", "fail", ["RNG-1"]),
        ("pytest.raises(ValueError, int, '1')", "fail", ["RNG-1"]),
        ("int('x')", "test-error", None),
        ("open('/nowhere')", "test-error", None),
        ("iommu_guest.read('/nowhere')", "fail", None),
        ("from pytest_iommu.guest.ops import split_parallel; split_parallel(b'12345')", "test-error", None),
    ],
)
def test_only_an_assertion_of_the_test_is_about_its_rules(
    run: Run, pytester: pytest.Pytester, statement: str, kind: str, broke: list[str] | None
) -> None:
    result = run(RULED.format(statement))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    row = results(pytester)["test_it"]
    assert (row["outcome"], row["kind"], row.get("broke")) == ("failed", kind, broke)


def test_a_helper_of_the_test_asserts_on_its_behalf(run: Run, pytester: pytest.Pytester) -> None:
    (pytester.path / "helpers.py").write_text("def compare(a, b):\n    assert a == b\n")
    run(RULED.format("import helpers; helpers.compare(1, 2)"))
    assert results(pytester)["test_it"]["broke"] == ["RNG-1"]


def test_a_time_out_of_another_plugin_breaks_no_rule_and_costs_the_guest(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pytest_timeout")
    monkeypatch.setenv("PYTEST_ADDOPTS", os.environ["PYTEST_ADDOPTS"].replace("-pno:timeout", ""))
    test = """
        import pytest
        from pytest_iommu.guest import ops

        @pytest.mark.iommu_rules("RNG-1")
        @pytest.mark.timeout(1)
        def test_hangs(iommu_guest):
            iommu_guest.run([ops.sleep(10**6)])

        def test_next(iommu_guest):
            assert iommu_guest.evidence().command == "qemu of guest 2"
    """
    behaviour = """
import time
def behave(guest, batch):
    while any(op.code == ops.Code.SLEEP for op in batch):
        time.sleep(0.01)
"""
    result = run(test, behaviour)
    result.assert_outcomes(failed=1, passed=1)
    row = results(pytester)["test_hangs"]
    assert (row["kind"], row.get("broke")) == ("test-error", None)
    result.stdout.fnmatch_lines(["*LOST guest 1: Failed: Timeout*"])


EXHAUSTED = """
import os, resource
def behave(guest, batch):
    if writes(batch, "domain"):
        from pytest_iommu.targets.qemu import memory_file
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, 4096))
        try:
            memory_file("too-many")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
"""


def test_a_limit_of_this_machine_is_the_set_ups(run: Run, pytester: pytest.Pytester) -> None:
    result = run(RULED.replace("iommu_guest", "iommu").format("iommu.table('amdv1')"), EXHAUSTED)
    assert result.ret == 6
    row = results(pytester)["test_it"]
    assert (row["kind"], row.get("broke")) == ("setup-error", None)
    assert "Too many open files" in str(row["text"])


def test_a_worker_that_is_killed_is_the_set_ups(run: Run, pytester: pytest.Pytester) -> None:
    kill = RULED.format("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    result = run(kill, "def behave(guest, batch): pass", "-n1")
    assert result.ret == 6
    row = results(pytester)["test_it"]
    assert (row["kind"], row.get("broke")) == ("setup-error", None)
    assert "was killed by SIGKILL (out of memory?" in str(row["text"])


# A guest that is lost

MADE_TWICE = """
    import pytest

    made = []

    @pytest.fixture
    def domain(iommu):
        made.append(iommu.table("amdv1"))
        yield made[-1]

    @pytest.mark.iommu_rules("RNG-1")
    def test_it(domain, iommu):
        iommu.command("map " + domain.name)
        assert domain is made[-1]
        assert len(made) == {}
"""


def lost_once(text: str) -> str:
    """The first guest is lost when that is written."""
    return f"""
def behave(guest, batch):
    if guest.number == 1 and writes(batch, {text!r}):
        raise GuestLost("QEMU was killed", Evidence())
"""


@pytest.mark.parametrize(("when", "made"), [("map", 2), ("domain", 1)], ids=["call", "set-up"])
def test_a_lost_guest_repeats_the_whole_test(run: Run, pytester: pytest.Pytester, when: str, made: int) -> None:
    result = run(MADE_TWICE.format(made), lost_once(when))
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["guest-lost, tried again on a fresh guest: *test_it: QEMU was killed"])
    assert result.stdout.str().count("LOST guest 1") == 1
    assert result.ret == 0


def test_a_guest_that_is_lost_twice_is_an_outcome(run: Run, pytester: pytest.Pytester) -> None:
    result = run(MADE_TWICE.format(2), lost_once("map").replace("guest.number == 1 and ", ""))
    assert result.ret == 6
    row = results(pytester)["test_it"]
    assert (row["kind"], row.get("broke")) == ("guest-lost", None)


# The end of a test


def leaves(then: str, statement: str = 'iommu.table("amdv1")', fixture: str = "iommu") -> str:
    """A test that does something to its guest, and one that runs on the guest named ``then``."""
    return f"""
        import pytest
        from pytest_iommu.guest import ops

        def test_first({fixture}):
            {statement}

        def test_second(iommu_guest):
            assert "{then}" in iommu_guest.evidence().command
    """


CRASH = """
def behave(guest, batch):
    if guest.number == 1 and {}:
        raise KernelCrash("warning while it ran a batch: WARNING: at iommu_domain_free", Evidence(splat="WARNING: x"))
"""


@pytest.mark.parametrize("when", ['writes(batch, "reset")', 'any(op.path.endswith("rcu_barrier") for op in batch)'])
def test_a_kernel_that_breaks_when_domains_are_freed(run: Run, pytester: pytest.Pytester, when: str) -> None:
    """That is the end of the test that made them, not the beginning of the next one."""
    result = run(leaves("guest 2"), CRASH.format(when))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    rows = results(pytester)
    assert (rows["test_first"]["outcome"], rows["test_first"]["kind"]) == ("failed", "kernel-crash")
    assert rows["test_second"]["outcome"] == "passed"


def test_a_scenario_is_not_over_before_its_domains_are_freed(run: Run, pytester: pytest.Pytester) -> None:
    (pytester.path / "a.iommu.yaml").write_text(
        "suite: a\ncases:\n  - {name: b, rules: [RNG-1], stages: [s1], do: [{map: {iova: 0x1000, pa: 0x1000, "
        "size: 4K, prot: rw}}]}\n"
    )
    run("def test_nothing(): pass", CRASH.format("any(op.data == b'reset\\n' for op in batch)"))
    row = results(pytester)["b[smmuv3-s1-4k]"]
    assert "at the end of the test, its domains being freed: warning" in str(row["text"])


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("iommu_guest.write('/sys/bus/pci/drivers/edu/unbind', 'x')", "*:01.0/driver: edu after boot, not bound now*"),
        ("iommu_guest.write('/proc/sys/vm/swappiness', '1')", "/proc/sys/vm/swappiness: 60 after boot, 1 now*"),
        ("iommu_guest.run([ops.open_file(0, '/x')])", "files left open in the agent: 1"),
        (
            "iommu_guest.run([ops.rmmod('iommu_ptdump_test')])",
            "module iommu_ptdump_test: loaded after boot, absent now*",
        ),
        ("iommu_guest.run([ops.run('/bin/x')])", "device 0000:00:01.0: there after boot, absent now*"),
    ],
    ids=["unbound", "sysctl", "slot", "module", "slot-empty"],
)
def test_a_test_that_leaves_its_guest_changed_is_named(run: Run, statement: str, said: str) -> None:
    result = run(leaves("guest 2", statement, "iommu_guest"))
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines([f"*GuestLeftChanged: *::test_first left its guest changed, which is replaced: {said}"])


def test_a_test_that_puts_everything_back_keeps_its_guest(run: Run) -> None:
    statement = "iommu_guest.write('/proc/sys/vm/x', '1'); iommu_guest.run([ops.open_file(0, '/x'), ops.close(0)])"
    result = run(leaves("guest 1", statement, "iommu_guest"))
    result.assert_outcomes(passed=2, warnings=0)


def test_a_crash_that_the_test_expects_costs_the_guest_alone(run: Run) -> None:
    statement = "pytest.raises(Exception, iommu.table, 'amdv1')"
    result = run(leaves("guest 2", statement), CRASH.format('writes(batch, "domain")'))
    result.assert_outcomes(passed=2)
