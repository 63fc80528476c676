# SPDX-License-Identifier: GPL-2.0-only
"""Scenario files: what they become, and that every mistake says file and line."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from pytest_iommu.core.flavours import page_size
from pytest_iommu.core.outcomes import Verdict
from pytest_iommu.core.rules import DUMP, RULES, TABLES, V1
from pytest_iommu.formats import configure
from pytest_iommu.scenario import (
    Dma,
    Plug,
    ScenarioError,
    StreamCheck,
    Suite,
    command_failure,
    compile_plan,
    load,
)
from pytest_iommu.scenario.amount import parse_amount
from pytest_iommu.scenario.variants import other_granule

HEAD = "suite: ranges\ndefaults: {machines: [smmuv3], stages: [s1, s2], granule: 4K, timeout: 10s}\ncases:\n"


def suite(folder: Path, text: str, head: str = HEAD) -> Suite:
    path = folder / "x.iommu.yaml"
    path.write_text(head + textwrap.indent(textwrap.dedent(text), "  "))
    return load(path)


def one(folder: Path, text: str) -> str:
    """The scripts of the only instance, its phases parted by a line of dashes."""
    return "--\n".join(phase.script for phase in compile_plan(suite(folder, text).instances[0]).phases)


EXAMPLE = """
    - name: pages-that-differ-in-prot-do-not-merge
      rules: [RNG-3, PRT-1]
      do:
        - map: {iova: 0x1000000, pa: 0x41000000, size: 4K, prot: rwc}
        - map: {iova: 0x1001000, pa: 0x41001000, size: 4K, prot: rc}
        - map: {iova: 0xffff000000000000, pa: 0x41000000, size: 4K, prot: rw, errno: ERANGE}
      dump: |
        0x0000000001000000-0x0000000001000fff 0x0000000041000000       4K 0       4K rw-c-- *
        0x0000000001001000-0x0000000001001fff 0x0000000041001000       4K 0       4K r--c-- *
"""


def test_a_case_becomes_a_plan_for_each_stage(tmp_path: Path) -> None:
    found = suite(tmp_path, EXAMPLE)
    name = "pages-that-differ-in-prot-do-not-merge"
    assert [instance.id for instance in found.instances] == [f"{name}[smmuv3-s1-4k]", f"{name}[smmuv3-s2-4k]"]
    instance = found.instances[1]
    assert (instance.timeout, instance.kernel, instance.line) == (10.0, "plain", 5)
    tables = ("TAB-1", "TAB-2", "TAB-3", "TAB-6", "TAB-7", "TAB-5", "ISO-1", "ISO-2")
    assert instance.rules == ("RNG-3", "PRT-1", *tables)
    plan = compile_plan(instance)
    assert len(plan.phases) == 1
    phase = plan.phases[0]
    assert phase.script.splitlines() == [
        "reset",
        "domain d dev=edu0 stage=2",
        "map d 0x1000000 0x41000000 0x1000 rwc",
        "map d 0x1001000 0x41001000 0x1000 rc",
        "? map d 0xffff000000000000 0x41000000 0x1000 rw",
    ]
    assert [phase.expect[number].errno for number in range(1, 6)] == [None, None, None, None, "ERANGE"]
    assert phase.expect[5].line == 10
    assert [check.domain for check in phase.checks] == ["d"]
    assert len(phase.checks[0].expected.ranges) == 2
    assert phase.checks[0].hand is not None


def test_status_is_held_against_expectations(tmp_path: Path) -> None:
    phase = compile_plan(suite(tmp_path, EXAMPLE).instances[0]).phases[0]
    good = "1 ok\n2 ok id=3\n3 ok\n4 ok\n5 error ERANGE outside the aperture\n"
    assert command_failure(phase, good) is None
    accepted = command_failure(phase, good.replace("5 error ERANGE", "5 ok"))
    assert accepted is not None
    assert accepted.message == "line 10: `map d 0xffff000000000000 0x41000000 0x1000 rw`: got success, expected ERANGE"
    failed = command_failure(phase, "1 ok\n2 error ENODEV no such device\n")
    assert failed is not None
    wrong = failed.message.splitlines()
    assert wrong[0] == "line 5: `domain d dev=edu0 stage=2`: got ENODEV (no such device), expected success".replace(
        "stage=2", "stage=1"
    )
    assert "was not executed" in wrong[1]


UNMAPS = """
    - name: a
      rules: [RNG-1]
      do:
        - map: {iova: 0x1000000, pa: 0x41000000, size: 8K, prot: rw}
        - unmap: {iova: 0x1000000, size: 8K}
"""


@pytest.mark.parametrize(
    ("status", "rules", "verdict"),
    [
        ("4 error EIO iommu_unmap(0x1000000, 0x2000) returned 0x1000", ("TAB-4",), Verdict.MAPPING),
        ("4 error EIO iommu_unmap(0x1000000, 0x2000) returned 0xfffffffffffffffe", ("TAB-4",), Verdict.MAPPING),
        ("4 error ENOENT 0x1000000 is not mapped", (), Verdict.COMMAND),
        ("3 error EEXIST the kernel refused, nothing is mapped", ("TAB-1",), Verdict.MAPPING),
        ("3 error ENOMEM the kernel refused, nothing is mapped", (), Verdict.COMMAND),
    ],
    ids=["less", "errno", "refused-by-the-module", "map-refused", "no-memory"],
)
def test_what_the_kernel_returns_breaks_a_rule(
    status: str, rules: tuple[str, ...], verdict: Verdict, tmp_path: Path
) -> None:
    phase = compile_plan(suite(tmp_path, UNMAPS).instances[0]).phases[0]
    good = "1 ok\n2 ok id=3\n3 ok\n4 ok unmapped=0x2000\n"
    assert command_failure(phase, good) is None
    head = "".join(f"{line}\n" for line in good.splitlines()[: int(status[0]) - 1])
    failure = command_failure(phase, f"{head}{status}\n")
    assert failure is not None
    assert (failure.rules, failure.verdict) == (rules, verdict)
    assert status.split(maxsplit=3)[3] in failure.message


def test_phases_end_where_something_is_read(tmp_path: Path) -> None:
    text = """
    - name: a
      rules: [RNG-6]
      formats: [amdv1]
      do:
        - check: {}
        - map: {iova: last, pa: end-2page, size: 2page, prot: rw}
        - read: {file: page_table, how: {chunk: 1}}
        - expect: {file: info, write: EINVAL}
        - unmap: {iova: end-8K, size: 8K}
    """
    assert one(tmp_path, text).splitlines() == [
        "reset",
        "domain d format=amdv1 levels=3 vasz=64 oasz=52",
        "--",
        "map d 0xffffffffffffe000 0xfffffffffe000 0x2000 rw",
        "--",
        "unmap d 0xffffffffffffe000 0x2000",
    ]
    phases = compile_plan(suite(tmp_path, text).instances[0]).phases
    assert [[len(part) for part in (p.checks, p.reads, p.access)] for p in phases] == [[1, 0, 0], [0, 1, 1], [1, 0, 0]]
    assert phases[1].access[0].want == "EINVAL"


def test_hardware_domains_have_the_pages_of_their_kernel(tmp_path: Path) -> None:
    text = """
    - {name: a, rules: [RNG-1], stages: [s1], granule: 64K, kernel: 64k, do: [check: {}]}
    - {name: b, rules: [RNG-1], stages: [s1], tables: [{format: arm_64_lpae_s1, granule: 16K}], do: [check: {}]}
    """
    large, small, software = suite(tmp_path, text).instances
    assert [one.domains["d"].config.granule for one in (large, small, software)] == [65536, 4096, 16384]
    assert large.id == "a[smmuv3-s1-64k]"
    why = {
        (one.id, flavour): other_granule(one.domains.values(), flavour, page_size(flavour))
        for one in (large, small, software)
        for flavour in ("plain", "debug", "64k")
    }
    assert {key for key, reason in why.items() if reason} == {
        (large.id, "plain"),
        (large.id, "debug"),
        (small.id, "64k"),
    }
    want = "its hardware domains have 4k pages, but a kernel of flavour 64k creates them with 64k"
    assert why[small.id, "64k"] == want


def test_variants(tmp_path: Path) -> None:
    text = """
    - {name: a, rules: [RNG-1], formats: [amdv1, x86_64], do: [check: {}]}
    - name: b
      rules: [RNG-1]
      tables:
        - {format: arm_64_lpae_s1, granule: 64K, ias: 52, oas: 52}
        - {format: arm_64_lpae_s1, quirks: [hd]}
        - {format: riscv_64, features: [], id: plain-riscv}
      do: [check: {}]
    - name: c
      rules: [LAY-2]
      domains: {x: {stage: s1}, y: {stage: s2, device: edu1}, z: {format: amdv1}}
      do: [check: {}]
    """
    found = suite(tmp_path, text)
    assert [instance.id for instance in found.instances] == [
        "a[smmuv3-amdv1]",
        "a[smmuv3-x86_64]",
        "b[smmuv3-arm_64_lpae_s1-64k-ias52-oas52]",
        "b[smmuv3-arm_64_lpae_s1-4k-hd]",
        "b[smmuv3-plain-riscv]",
        "c[smmuv3-s1-4k+s2-4k+amdv1]",
    ]
    assert [domain.command for instance in found.instances for domain in instance.domains.values()] == [
        "domain d format=amdv1 levels=3 vasz=64 oasz=52",
        "domain d format=x86_64 levels=4 vasz=48 oasz=52 features=sign_extend",
        "domain d format=arm_64_lpae_s1 granule=64K ias=52 oas=52",
        "domain d format=arm_64_lpae_s1 granule=4K ias=48 oas=48 quirks=hd",
        "domain d format=riscv_64 levels=4 vasz=48 oasz=56 features=none",
        "domain x dev=edu0 stage=1",
        "domain y dev=edu1 stage=2",
        "domain z format=amdv1 levels=3 vasz=64 oasz=52",
    ]


def test_domains_come_and_go(tmp_path: Path) -> None:
    text = """
    - name: a
      rules: [LAY-4]
      stages: [s1]
      domains: {a: {}, b: {}}
      do:
        - map: {domain: a, iova: 0, pa: 0x41000000, size: 16K, prot: rw, leaf: 4K, count: 3, istep: 32K}
        - create: {domain: b}
        - attach: {domain: b, devices: [edu0, edu1]}
        - destroy: {domain: b, errno: EBUSY}
        - detach: {devices: [edu0, edu1]}
        - destroy: {domain: b}
        - expect: {domain: b, exists: false}
        - remap: {domain: a, iova: 0, pa: 0x42000000, size: 16K, prot: r}
    """
    assert one(tmp_path, text).splitlines() == [
        "reset",
        "domain a dev=edu0 stage=1",
        "map a 0x0 0x41000000 0x4000 rw leaf=0x1000 count=3 istep=0x8000",
        "domain b dev=edu0 stage=1",
        "attach b edu0",
        "attach b edu1",
        "? destroy b",
        "detach edu0",
        "detach edu1",
        "destroy b",
        "--",
        "unmap a 0x0 0x4000",
        "map a 0x0 0x42000000 0x4000 r",
    ]
    last = compile_plan(suite(tmp_path, text).instances[0]).phases[-1]
    assert [row.first for row in last.checks[0].expected.ranges] == [0, 0x8000, 0x10000]


def test_amounts() -> None:
    config = configure("arm_64_lpae_s1", granule=16384)
    table = {
        "0x1000": 0x1000,
        "4096": 4096,
        "2M": 2 << 20,
        "page": 16384,
        "3page": 3 * 16384,
        "0x1000000+2block-page": 0x1000000 + (2 << 25) - 16384,
        "end": 1 << 48,
        "end-4K": (1 << 48) - 4096,
        "last": (1 << 48) - 0x8000,
    }
    for text, value in table.items():
        assert parse_amount(text).value(config, 1 << 48, 0x8000) == value, text
    for text in ("", "4k", "x", "1 2", "+", "4K4K", "0x", "pages", "-"):
        with pytest.raises(ValueError, match="address or size"):
            parse_amount(text)


CASE = "- {name: a, rules: [RNG-1], do: [{map: {iova: 0x1000, pa: 0x41000000, size: 4K, prot: rw}}]}"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (CASE.replace("RNG-1", "RNG-9"), 4, "unknown rule 'RNG-9'"),
        (CASE.replace("name: a", "nam: a"), 4, "no key 'nam'"),
        (CASE.replace("name: a,", ""), 4, "needs 'name'"),
        (CASE.replace("name: a", "name: a, name: b"), 4, "second time"),
        (f"{CASE}\n\n{CASE}", 6, "on line 4"),
        (CASE.replace("prot: rw", "prot: rq"), 4, "prot takes"),
        (CASE.replace("size: 4K", "size: 4Q"), 4, "not an address or size"),
        (CASE.replace("size: 4K, ", ""), 4, "map needs 'size'"),
        (CASE.replace("map:", "mapp:"), 4, "unknown step 'mapp'"),
        (CASE.replace("prot: rw", "prot: rw, errno: EWHAT"), 4, "unknown errno"),
        (CASE.replace("prot: rw", "prot: rw, domain: e"), 4, "unknown domain 'e'"),
        (CASE.replace("rules:", "stages: [s3], rules:"), 4, "unknown stage 's3'"),
        (CASE.replace("rules:", "formats: [amdv2], rules:"), 4, "unknown format 'amdv2'"),
        (CASE.replace("rules:", "table: {format: amdv1, levels: 9}, rules:"), 4, "2 to 6 levels"),
        (CASE.replace("rules:", "table: {format: amdv1, quirks: [hd]}, rules:"), 4, "takes `features`"),
        (CASE.replace("rules:", "granule: 64K, rules:"), 4, "page size as granule"),
        (CASE.replace("rules:", "timeout: 10, rules:"), 4, "a time such as 10s"),
        (CASE.replace("rules:", "fresh: yes, rules:"), 4, "unknown value 'yes'"),
        (CASE.replace("rules:", "kernel: fast, rules:"), 4, "unknown kernel flavour"),
        (CASE.replace("rules:", "needs: {}, rules:"), 4, "needs must not be empty"),
        (CASE.replace("rules:", "needs: {device: [edu0]}, rules:"), 4, "no key 'device'"),
        (CASE.replace("rules:", "needs: {devices: [edu77]}, rules:"), 4, "unknown device 'edu77'"),
        (CASE.replace("rules:", "needs: {machine: pdp11}, rules:"), 4, "unknown machine 'pdp11'"),
        (CASE.replace("rules:", "needs: {machine: smmuv3s1}, rules:"), 4, "but runs only on smmuv3"),
        (CASE.replace("rules:", "needs: {config: [CONFIG_MEMCG]}, rules:"), 4, "without CONFIG_"),
        (CASE.replace("rules:", "repeat: {fresh: true}, rules:"), 4, "repeat needs 'times'"),
        (CASE.replace("rules:", "repeat: 0, rules:"), 4, "a number from 1 on"),
        (CASE.replace("rules:", "formats: [amdv1], granule: 64K, rules:"), 4, "but the case has none"),
        (CASE.replace("prot: rw", "prot: rw, istep: 8K"), 4, "istep needs `count`"),
        (CASE.replace("rules:", "domains: {d: {format: amdv1, device: edu1}}, rules:"), 4, "has no device"),
        ("- name: a\n  rules: [RNG-1]\n  do:\n    - read: {file: info, how: {pread: [1], chunk: 8}}\n", 7, "no chunk"),
        ("- name: a\n  rules: [RNG-1]\n  do:\n    - map\n", 7, "here should be a mapping"),
        ("- name: a\n  rules: [RNG-1]\n  do:\n    - read: {file: info, how: {}}\n", 7, "exactly one of chunk"),
        ("- name: a\n  rules: [RNG-1\n", 6, "is not YAML"),
        ("- name: a\n  rules: [RNG-1]\n", 4, "does nothing"),
    ],
)
def test_mistakes_say_where(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(ScenarioError) as mistake:
        suite(tmp_path, text)
    assert f"x.iommu.yaml:{line}: " in str(mistake.value)
    assert message in str(mistake.value)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (CASE.replace("}}]}", "}}, {map: {iova: 0, pa: 0, size: 8K, prot: r}}]}"), 4, "EEXIST"),
        (CASE.replace("}}]}", "}}, {unmap: {iova: 0, size: 4K}}]}"), 4, "ENOENT"),
        (CASE.replace("iova: 0x1000", "iova: end"), 4, "ERANGE"),
        (CASE.replace("iova: 0x1000", "iova: 0-page"), 4, "outside 64 bits"),
        (CASE.replace("}}]}", "}}, {destroy: {}}, {check: {domain: d}}]}"), 4, "does not exist here"),
        (EXAMPLE.replace("r--c--", "rw-c--"), 13, "not what the model expects: 0x"),
        (EXAMPLE.replace("0x0000000001000000-0x0000000001000fff", "0x0000000001000000-0x0000000001001fff"), 12, "size"),
        (EXAMPLE[: EXAMPLE.rindex("        0x")], 12, "the hand-written dump has 1"),
    ],
)
def test_mistakes_that_the_model_sees(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(ScenarioError) as mistake:
        compile_plan(suite(tmp_path, text).instances[0])
    assert f"x.iommu.yaml:{line}: " in str(mistake.value)
    assert message in str(mistake.value)


STREAMS = """
- name: two-devices-on-one-domain-show-one-id
  rules: [STE-3, STE-5]
  needs: {devices: [edu0, edu1], dialect: io_ptdump}
  domains: {a: {stage: s1}, b: {stage: s1}}
  do:
    - map: {domain: a, iova: 0x1001000, pa: 0x5c000000, size: 4K, prot: r}
    - attach: {domain: a, devices: [edu0, edu1]}
    - check: {stream: edu0, config: only S1_TRANS, domain: a}
    - dma: {device: edu0, write: 0x1001000, expect: F_PERMISSION}
    - dma: {device: edu1, read: 0x1001010, size: 16}
    - replace: {device: edu1, domain: b}
    - unplug: {device: edu1}
    - check: {stream: edu1, present: false}
    - plug: {device: edu1}
"""


def test_devices_streams_and_transfers(tmp_path: Path) -> None:
    (instance,) = suite(tmp_path, STREAMS).instances
    first, second, third, last = compile_plan(instance).phases
    line = instance.line
    assert first.script.splitlines()[-2:] == ["attach a edu0", "attach a edu1"]
    assert first.streams == (StreamCheck("edu0", "only S1_TRANS", "a", True, line + 7),)
    assert first.dma == (
        Dma("edu0", True, 0x1001000, 64, "F_PERMISSION", 0x5C000000, line + 8),
        Dma("edu1", False, 0x1001010, 16, None, 0x5C000010, line + 9),
    )
    assert second.script == "replace b edu1\n"
    assert third.plugs == (Plug("edu1", False, line + 11),)
    assert third.streams == (StreamCheck("edu1", None, None, False, line + 12),)
    assert last.plugs == (Plug("edu1", True, line + 13),)
    # b lost its device with the plug, and edu0 is not free to visit it
    assert [(one.domain, one.device, one.attached) for one in last.samples] == [("a", "edu0", True)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("write: 0x1001000, expect", "write: 0x1001000, read: 0, expect", "exactly one of read and write"),
        ("expect: F_PERMISSION", "expect: F_ODD", "F_ODD"),
        ("only S1_TRANS", "S1", "S1"),
        ("{stream: edu0, config: only S1_TRANS, domain: a}", "{stream: edu0, domain: c}", "domain"),
    ],
)
def test_mistakes_about_streams(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        suite(tmp_path, STREAMS.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("read: 0x1001010, size: 16", "read: 0x1002000", "is not mapped"),
        ("read: 0x1001010, size: 16", "read: 0x1001ff0, size: 4K", "is not mapped"),
        ("- replace: {device: edu1, domain: b}", "- dma: {device: edu2, read: 0x1001000}", "not attached to a domain"),
    ],
)
def test_transfers_that_cannot_be(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        compile_plan(suite(tmp_path, STREAMS.replace(old, new)).instances[0])


def test_all_rules_have_words() -> None:
    assert len(DUMP) == 51
    assert set(RULES) == {*TABLES, *DUMP, *V1}
    assert all(text and text[-1] != "." for text in RULES.values())
