# SPDX-License-Identifier: GPL-2.0-only
"""The kselftest without a kernel: what its cases are made of, what its judge of reads finds, its KTAP's names."""

from __future__ import annotations

import re
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest

from pytest_iommu.check.kselftest import cases, export
from pytest_iommu.check.witnesses.streams import DEFAULT
from pytest_iommu.core import paths
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.scenario import compile_plan, load

DATA = Path(__file__).parents[1] / "data" / "kselftest"
OUTPUTS = sorted(DATA.glob("*.ktap"))
WORDS = re.compile(
    r"case [a-z0-9A-Z-]+|rules( [A-Z]{3}-\d+)+|device \w+|run|> .+|! \d+ E[A-Z0-9]+"
    r"|domain \S+ (CONFIG_\w+|\w+ format=\w+ ias=\d+ oas=\d+ granule=\d+K)"
    r"|access (- /\S+|\S+ [\w.]+) (exists|mode|open|read|write|ioctl) \w+"
    r"|read \S+ \w+ (chunk \d+|(pread|lseek|parallel) \d+( \d+)+)"
    r"|stream \w+ (present|absent) \S+ (\*|[A-Z]+|only S[12]_TRANS|S1\+S2_TRANS)"
    r"|check \S+ 0x[0-9a-f]{16}|[ipes] .+|[PE] \d+ 0x[0-9a-f]{8}"
)

CASES = """
suite: little
defaults: {formats: [amdv1]}
cases:
  - name: two-pages
    rules: [RNG-3]
    do:
      - map: {iova: 0x1000000, pa: 0x41000000, size: 4K, prot: rw}
      - map: {iova: 0x1000000, pa: 0x41000000, size: 4K, prot: rw, errno: EEXIST}
      - read: {file: page_table, how: {pread: [3, 4], size: 7}}
  - name: many-pages
    rules: [RNG-3]
    do: [{map: {iova: 0x1000000, pa: 0x41000000, size: 4K, prot: rw, count: 100, pstep: 8K}}]
  - name: another-machine
    rules: [RNG-3]
    machines: [smmuv3s1]
    do: [{map: {iova: 0x1000000, pa: 0x41000000, size: 4K, prot: rw}}]
  - name: pulled-out
    rules: [STE-1]
    stages: [s1]
    do: [{unplug: {device: edu2}}]
  - name: whatever-its-default-domain-is
    rules: [STE-2]
    stages: [s1]
    do: [{check: {stream: edu0, config: default}}]
"""


@pytest.fixture(scope="module")
def compiled() -> dict[str, str]:
    return cases.compile_all()


def test_suite_gives_cases_of_every_kind_that_a_guest_alone_can_check(compiled: dict[str, str]) -> None:
    lines = [line for text in compiled.values() for line in text.splitlines() if not line.startswith("#")]
    unknown = [line for line in lines if not WORDS.fullmatch(line)]
    assert unknown == []
    words = {line.split()[0] for line in lines}
    assert {"access", "read", "stream", "check", "!", "P", "E", "p", "e", "s", "i"} <= words
    rules = {rule for line in lines if line.startswith("rules ") for rule in line.split()[1:]}
    assert {"LAY-5", "INF-1", "RNG-1", "LVL-1", "PRT-1", "ENT-1", "STE-3", "CON-10"} <= rules
    assert sum(line.startswith("case ") for line in lines) > 500


def test_names_are_left_alone_by_every_parser(compiled: dict[str, str]) -> None:
    names = [line[5:] for text in compiled.values() for line in text.splitlines() if line.startswith("case ")]
    assert len({name.lower() for name in names}) == len(names)
    for name in names:
        assert re.fullmatch(r"[0-9A-Za-z]+(-[0-9A-Za-z]+)*", name), name
        assert not any(word.isdecimal() for word in name.split("-")), name
        assert len(name) < 128  # ptdump_cases.c


def test_case_is_its_scenario(tmp_path: Path) -> None:
    (tmp_path / "little.iommu.yaml").write_text(CASES)
    (text,) = cases.compile_all(tmp_path).values()
    assert [line for line in text.splitlines() if line.startswith("case")] == [
        "case little-two-pages-amdv1",
        "case little-many-pages-amdv1",
    ]
    two, many = text.split("case ")[1:]
    assert two.splitlines()[1:12] == [
        "rules RNG-3",
        "domain d CONFIG_IOMMU_PT_AMDV1",
        "> reset",
        "> domain d format=amdv1 levels=3 vasz=64 oasz=52",
        "> map d 0x1000000 0x41000000 0x1000 rw",
        "> ? map d 0x1000000 0x41000000 0x1000 rw",
        "! 4 EEXIST",
        "run",
        "read d page_table pread 7 3 4",
        "check d 0x000ffffffffff000",
        "i format: amdv1",
    ]
    assert "p 0x0000000001000000-0x0000000001000fff 0x0000000041000000       4K 0       4K rw---- FC" in two
    assert "e 1 0x0000000001000000 table -  * raw 0x6000000000000201" in two
    assert "s total 3 1 12288" in two
    assert "\ni top" not in text
    lines = [
        f"0x{0x1000000 + at * 4096:016x}-0x{0x1000FFF + at * 4096:016x} 0x{0x41000000 + at * 8192:016x}"
        "       4K 0       4K rw---- FC\n"
        for at in range(100)
    ]
    assert f"P 100 0x{zlib.crc32(''.join(lines).encode()):08x}\n" in many


def test_what_needs_more_than_a_guest_is_no_case() -> None:
    folder = paths.conformance() / "scenarios"
    for name in ("topology", "races"):
        path = folder / f"{name}.iommu.yaml"
        if path.exists():
            assert [one.id for one in load(path).instances if cases.suitable(one)] == []


def test_what_is_a_case_shows_in_its_plan() -> None:
    """It is told by the steps, which is quick; the plan is what must not have more than a guest can do."""
    for path in sorted((paths.conformance() / "scenarios").glob("*.iommu.yaml")):
        for instance in load(path).instances:
            if not cases.suitable(instance):
                continue
            for phase in compile_plan(instance).phases:
                assert not phase.plugs
                assert not phase.dma
                assert all(stream.config != DEFAULT for stream in phase.streams)
                assert all(read.same for read in phase.reads)


def test_export_is_complete_and_replaces_only_itself(tmp_path: Path) -> None:
    target = tmp_path / "here"
    export.export(target, {"one.txt": "case a\n", "two.txt": "case b\n"})
    export.export(target, {"one.txt": "case c\n"})
    assert [path.name for path in target.glob("cases/*")] == ["one.txt"]
    assert (target / "cases/one.txt").read_text() == "case c\n"
    assert (target / "ptdump_files.sh").stat().st_mode & 0o111
    modules = {path.name for path in paths.module().glob("*.[ch]")}
    assert {path.name for path in (target / "test_modules").glob("*.[ch]")} == modules
    assert (target / "test_modules/Makefile").read_bytes() == (export.sources() / "test_modules/Makefile").read_bytes()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("")
    with pytest.raises(SetupError, match="is not empty"):
        export.export(tmp_path / "mine", {})
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes"]


BEFORE = (
    "0x000000003fc00000-0x000000003fdfffff 0x0000000080000000       2M 1       2M rw---- FC\n"
    "0x0000000040201000-0x0000000040201fff 0x0000000090001000       4K 0       4K rw---- FC\n"
    "0x0000000040601000-0x0000000040601fff 0x0000000090004000       4K 0       4K rw---- FC\n"
)
FIRST, SECOND, THIRD = BEFORE.splitlines(keepends=True)
CELL = "0x0000000040400000-0x00000000404fffff 0x0000800000300000       1M 0       4K rw---- FC\n"
LOG = (
    "storm t iova=0x40000000 cell=0x200000 gap=0x400000 cells=2 threads=1 changes=0 error=0\n"
    "state 1 pa=0x800000100000 size=0x200000 leaf=0x1000 prot=rw\n"
    "state 4 pa=0x800000900000 size=0x100000 leaf=0x1000 prot=rwx\n"
)
ENTRIES = (
    "1 0x000000003fc00000 leaf  2M 0x0000000080000000 raw 0x0000000080000001 rw---- FC\n"
    "1 0x0000000040200000 table -  0x0000000041000000 raw 0x0000000041000001\n"
    "0 0x0000000040201000 leaf  4K 0x0000000090001000 raw 0x0000000090001001 rw---- FC\n"
)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc: not found")
    program = tmp_path_factory.mktemp("judge") / "judge"
    folder = export.sources()
    sources = [str(DATA / "judge_main.c"), str(folder / "ptdump.c"), str(folder / "ptdump_judge.c")]
    argv = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-fsanitize=address,undefined", f"-I{folder}"]
    done = subprocess.run([*argv, "-o", str(program), *sources], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        pytest.param(BEFORE, "", id="as before"),
        pytest.param(FIRST + SECOND + CELL + THIRD, "", id="a state of the log"),
        pytest.param(FIRST + THIRD, "CON-2", id="a sentinel lost"),
        pytest.param(FIRST + SECOND, "CON-2", id="cut at the end"),
        pytest.param(FIRST + SECOND.replace("rw-", "r--") + THIRD, "CON-3", id="a sentinel changed"),
        pytest.param("0x0000000030000000" + SECOND[18:].replace("40201fff", "30000fff") + BEFORE, "CON-3", id="never"),
        pytest.param(FIRST + THIRD + SECOND, "CON-5", id="not ascending"),
        pytest.param(FIRST + SECOND + SECOND + THIRD, "CON-5", id="twice"),
        pytest.param(BEFORE + "rubbish\n", "CON-4", id="no line"),
        pytest.param(FIRST + SECOND.replace("      4K", "      8K", 1) + THIRD, "CON-4", id="a size that is not so"),
        pytest.param(FIRST + SECOND + CELL.replace("00300", "00301") + THIRD, "CON-4", id="an address of no state"),
        pytest.param(FIRST + SECOND + CELL.replace("      4K", "     64K") + THIRD, "CON-4", id="a leaf of no state"),
        pytest.param(FIRST + SECOND + CELL.replace("rw-", "r--") + THIRD, "CON-4", id="a prot of no state"),
        pytest.param(
            FIRST + SECOND + CELL.replace("404fffff", "40600fff").replace("  1M", "2052K") + THIRD, "CON-3", id="beyond"
        ),
        pytest.param(
            FIRST
            + SECOND
            + CELL.replace("404fffff", "40500fff").replace("  1M", "1028K").replace("00300", "00b00")
            + THIRD,
            "CON-4",
            id="more of a state than there is",
        ),
        pytest.param("level tables leaves bytes\n1 1 2 4096\n0 2 3 8192\ntotal 3 5 12288\n", "", id="stats"),
        pytest.param("level tables leaves bytes\n1 1 2 4096\n0 2 3 8192\ntotal 3 6 12288\n", "ENT-2", id="bad stats"),
        pytest.param("level tables leaves bytes\n1 1 2 4096\n", "ENT-2", id="stats cut"),
    ],
)
def test_judge_finds(judge: Path, tmp_path: Path, text: str, rule: str) -> None:
    assert _judged(judge, tmp_path, BEFORE, text).partition(":")[0] == rule


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        pytest.param(ENTRIES, "", id="as before"),
        pytest.param(
            ENTRIES.splitlines(keepends=True)[0]
            + "1 0x0000000040033000 leaf  2M 0x0000800000133000 raw 0x0000800000100001 rw---- FC\n"
            + "".join(ENTRIES.splitlines(keepends=True)[1:]),
            "CON-4",
            id="a cut block, of no state",
        ),
        pytest.param(ENTRIES.replace("table -  0x", "bad   -  0x"), "CON-4", id="bad"),
        pytest.param("".join(reversed(ENTRIES.splitlines(keepends=True))), "CON-5", id="backwards"),
        pytest.param(ENTRIES.replace("90001001", "90001003"), "CON-3", id="raw changed"),
    ],
)
def test_judge_finds_in_entries(judge: Path, tmp_path: Path, text: str, rule: str) -> None:
    assert _judged(judge, tmp_path, ENTRIES, text).partition(":")[0] == rule


def _judged(judge: Path, folder: Path, before: str, text: str) -> str:
    files = []
    for name, content in (("before", before), ("read", text), ("log", LOG)):
        files.append(folder / name)
        files[-1].write_text(content)
    return subprocess.run([judge, *files], capture_output=True, text=True, check=True).stdout.strip()


def results(text: str) -> list[tuple[str, str, str]]:
    """Result, name and directive of every innermost test in a program's or a runner's output."""
    found = re.findall(r"^(?:# )?(ok|not ok) \d+ ([^#\n]*[^#\n ])(?: +# *(.*))?$", text, re.M)
    return [one for one in found if not one[1].startswith("selftests:")]


@pytest.mark.parametrize("path", OUTPUTS, ids=lambda path: path.name)
def test_no_parser_mixes_up_two_tests(path: Path) -> None:
    text = path.read_text()
    names = [name for _, name, _ in results(text)]
    plans = [int(number) for number in re.findall(r"^(?:# )?1\.\.(\d+)$", text, re.M)]
    assert len(names) in (sum(plans), sum(plans[1:]))  # a runner's own plan comes first
    lkft = {re.sub(r"[^A-Za-z0-9_-]+", "_", re.sub(r"\[\d{1,5}\]", "", name)) for name in names}
    nipa = {re.sub(r"[^0-9a-zA-Z]+", "-", name).lower() for name in names}
    assert len(names) == len(set(names)) == len(lkft) == len(nipa)
    assert not any(word.isdecimal() for name in nipa for word in name.split("-"))


def test_corpus_has_each_result() -> None:
    found = {path.stem: results(path.read_text()) for path in OUTPUTS}
    assert found["reference"]
    assert {(result, bool(why)) for result, _, why in found["reference"]} <= {("ok", False), ("ok", True)}
    assert {(result, why) for result, _, why in found["without"]} == {
        ("ok", "SKIP no iommu/domains in debugfs (CONFIG_IOMMU_PTDUMP_DEBUGFS)")
    }
    assert [name for _, name, _ in found["without"]] == [name for _, name, _ in found["reference"]]
    assert {result for result, name, _ in found["faults"] if name.startswith("bad-")} == {"not ok"}
    assert {why[:5] for _, name, why in found["faults"] if name.startswith("skip-")} == {"SKIP "}
