# SPDX-License-Identifier: GPL-2.0-only
"""Marks and ini keys that are written wrongly end the run; those of others are none of our business."""

from __future__ import annotations

import pytest
from bench import Bench

WRONG = {
    '@pytest.mark.iommu_needs(device=["edu0"])': "unknown argument 'device'; did you mean 'devices'?",
    '@pytest.mark.iommu_needs("smmuv3")': "it takes keyword arguments only",
    "@pytest.mark.iommu_needs": "it names nothing",
    '@pytest.mark.iommu_needs(devices="edu0")': "devices: takes a list of names, not 'edu0'",
    '@pytest.mark.iommu_needs(devices=["edu77"])': "devices: unknown device 'edu77'; did you mean 'edu*'?",
    '@pytest.mark.iommu_needs(machine="smmu3")': "machine: unknown machine 'smmu3'; did you mean 'smmuv3'?",
    '@pytest.mark.iommu_needs(dialect="ptdump")': "dialect: unknown dialect 'ptdump'; did you mean 'io_ptdump'?",
    '@pytest.mark.iommu_needs(config=["CONFIG_MEMCG"])': "config: takes * symbols without CONFIG_, not 'CONFIG_MEMCG'",
    '@pytest.mark.iommu_needs(config="MEMCG")': "config: takes a list of names, not 'MEMCG'",
    '@pytest.mark.iommu_rules("RNG-99")': "unknown rule 'RNG-99'; did you mean 'RNG-*'?",
    "@pytest.mark.iommu_rules": "it names no rule",
    '@pytest.mark.iommu_rules(rule="RNG-1")': "unknown argument 'rule'",
    '@pytest.mark.iommu_boot_mode("race")': "unknown boot mode 'race'; did you mean 'races'?",
    "@pytest.mark.iommu_boot_mode()": "it takes exactly one name",
    "@pytest.mark.iommu_flavour": "it takes exactly one name",
    '@pytest.mark.iommu_flavour("debgu")': "unknown kernel flavour 'debgu'; did you mean 'debug'?",
    '@pytest.mark.iommu_flavour("plain", "debug")': "it takes exactly one name",
    '@pytest.mark.iommu_fresh("yes")': "it takes no arguments",
    '@pytest.mark.iommu_flavor("debug")': "unknown mark 'iommu_flavor'; did you mean 'iommu_flavour'?",
}


def module(mark: str) -> str:
    return f"import pytest\n\n\n{mark}\ndef test_marked(iommu_guest):\n    pass\n"


@pytest.mark.parametrize("mark", WRONG)
def test_a_wrong_mark_is_a_usage_error(recorded: Bench, mark: str) -> None:
    recorded.pytester.makepyfile(module(mark))
    result = recorded.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    told = WRONG[mark].replace("[", "[[]")
    result.stderr.fnmatch_lines([f"*test_a_wrong_mark_is_a_usage_error.py::test_marked: @pytest.mark.iommu_*: {told}*"])
    if "iommu_flavor(" not in mark:
        name = mark.removeprefix("@pytest.mark.").partition("(")[0]
        result.stderr.fnmatch_lines([f"*it is written: @pytest.mark.{name}*"])
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize("arguments", [(), ("--collect-only",), ("-n2",), ("--iommu-list",)])
def test_a_wrong_mark_is_a_usage_error_however_pytest_is_run(recorded: Bench, arguments: tuple[str, ...]) -> None:
    recorded.pytester.makepyfile(module('@pytest.mark.iommu_rules("RNG-99")'))
    result = recorded.run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*::test_marked: @pytest.mark.iommu_rules('RNG-99'): unknown rule *"])
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


def test_a_wrong_mark_of_a_module_is_told_once(bench: Bench) -> None:
    bench.pytester.makepyfile(
        'import pytest\npytestmark = pytest.mark.iommu_boot_mode("race")\n'
        "def test_a(): pass\ndef test_b(): pass\nclass TestC:\n    def test_d(self): pass\n"
    )
    result = bench.pytester.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*::test_a (and 2 more tests): @pytest.mark.iommu_boot_mode('race'): *"])
    assert result.stderr.str().count("unknown boot mode") == 1


def test_marks_of_others_are_left_alone(bench: Bench) -> None:
    bench.scenarios.unlink()
    bench.pytester.makeini("[pytest]\nmarkers =\n    iommu_slow(n): a project's own\n    iommu: another\n")
    bench.pytester.makepyfile(
        "import pytest\n"
        "@pytest.mark.iommu_slow(3)\n@pytest.mark.iommu\n@pytest.mark.somebody(device=1)\ndef test_mine(): pass\n"
    )
    bench.pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_the_marks_of_function_class_and_module_add_up(recorded: Bench) -> None:
    recorded.pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.iommu_needs(machine="smmuv3topo", devices=["edu0"], config=["MEMCG"])


        @pytest.mark.iommu_needs(machine="smmuv3", devices=["edu1"])
        class TestClass:
            @pytest.mark.iommu_needs(dialect="io_ptdump", devices=["edu0", "edu2"])
            def test_it(self, request):
                from pytest_iommu.session.marks import needs_of

                needs = needs_of(request.node)
                assert needs.devices == ("edu0", "edu2", "edu1")
                assert (needs.machine, needs.dialect, needs.config) == ("smmuv3", "io_ptdump", ("MEMCG",))
        """
    )
    recorded.run("-k", "test_it").assert_outcomes(passed=1, deselected=4)


def test_a_mark_on_a_function_keeps_what_its_module_needs(recorded: Bench) -> None:
    recorded.pytester.makepyfile(
        'import pytest\npytestmark = pytest.mark.iommu_needs(machine="smmuv3topo")\n'
        '@pytest.mark.iommu_needs(dialect="io_ptdump")\ndef test_it(iommu_guest): pass\n'
    )
    result = recorded.run("-k", "test_it", "-rs")
    result.assert_outcomes(skipped=1, deselected=4)
    result.stdout.fnmatch_lines(["*needs smmuv3topo/plain: --iommu-machine=smmuv3topo --iommu-flavour=plain"])


@pytest.mark.parametrize(("needed", "machine"), [("edu0", "smmuv3"), ("port0", "smmuv3topo"), ("edu7", "smmuv3topo")])
def test_an_emulated_machine_is_the_first_one_with_the_devices(recorded: Bench, needed: str, machine: str) -> None:
    recorded.pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.iommu_needs(machine="emulated", devices=["{needed}"])
        def test_it(request):
            from pytest_iommu.session.lifecycle import key_of

            assert key_of(request.node).machine == "{machine}"
        """
    )
    result = recorded.run("-k", "test_it", "--iommu-machine=smmuv3,smmuv3s1,smmuv3topo")
    result.assert_outcomes(passed=1, deselected=4)


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
@pytest.mark.parametrize("form", ["tox.ini", "pyproject.toml", "-o"])
def test_a_misspelt_ini_key_is_a_usage_error(bench: Bench, form: str, workers: str) -> None:
    more = []
    if form == "tox.ini":
        bench.pytester.makeini("[pytest]\niommu_machne = smmuv3s1\n")
    elif form == "pyproject.toml":
        bench.pytester.makepyprojecttoml('[tool.pytest.ini_options]\niommu_machne = "smmuv3s1"\n')
    else:
        more = ["-o", "iommu_machne=smmuv3s1"]
    result = bench.pytester.runpytest_subprocess(workers, *more)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    where = "-o" if form == "-o" else form
    result.stderr.fnmatch_lines([f"*{where}*: unknown key 'iommu_machne'; did you mean 'iommu_machine'?"])


def test_ini_keys_of_others_are_left_alone(bench: Bench) -> None:
    bench.pytester.makeconftest('def pytest_addoption(parser):\n    parser.addini("iommu_extra", "of a conftest")\n')
    bench.pytester.makeini("[pytest]\nmy_own_key = 1\niommu_extra = 2\niommu_examples = 3\n")
    result = bench.pytester.runpytest_subprocess("-W", "ignore::pytest.PytestConfigWarning")
    result.assert_outcomes(skipped=4)


@pytest.mark.parametrize("key", ["iommu_strict", "iommu_offline"])
def test_an_ini_value_that_cannot_be_read_is_a_usage_error(bench: Bench, key: str) -> None:
    bench.pytester.makeini(f"[pytest]\n{key} = perhaps\n")
    result = bench.pytester.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{key}*perhaps*"])
