# SPDX-License-Identifier: GPL-2.0-only
"""The exported series is what a maintainer can take: git am on a whole tree, checkpatch without a word."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_iommu import cli
from pytest_iommu.core import paths
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.images.series import SeriesPatch, export_fixes, export_series, fixes, read_hook

AUTHOR = {"GIT_AUTHOR_NAME": "A Developer", "GIT_AUTHOR_EMAIL": "developer@example.org"}
NEEDED = ("drivers/iommu", "include/linux", "mm", "Documentation/ABI/testing")


@pytest.fixture(scope="module")
def series(kernel_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in AUTHOR.items():
            patch.setenv(name, value)
        return export_series(kernel_tree, tmp_path_factory.mktemp("series"))


def run(*argv: str, cwd: Path) -> str:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_a_patch_for_each_hook_and_a_cover_letter(series: list[Path]) -> None:
    hooks = sorted((paths.reference() / "hooks").glob("*.patch"))
    assert len(series) == len(hooks) + 1
    assert series[0].name == "0000-cover-letter.txt"
    assert "***" not in series[0].read_text()


def test_every_new_file_belongs_to_a_step() -> None:
    files = paths.reference() / "files"
    there = {str(path.relative_to(files)) for path in files.rglob("*") if path.is_file()}
    steps = [read_hook(hook) for hook in sorted((paths.reference() / "hooks").glob("*.patch"))]
    listed = [name for step in steps for name in step.new_files]
    assert sorted(listed) == sorted(there)


def changed(text: str) -> Counter[str]:
    """The lines that a diff adds and removes."""
    return Counter(re.findall(r"(?m)^(?:\+(?!\+\+ )|-(?!-- ?)).*\S.*$", text))


def hold_all_of(hook: Path, patch: Path) -> None:
    """What stands behind a damaged header is a comment to git apply."""
    wanted = changed(hook.read_text().partition("\n---\n")[2])
    assert wanted
    assert not wanted - changed(patch.read_text()), hook.name


def test_no_change_of_a_hook_is_lost(series: list[Path]) -> None:
    hooks = sorted((paths.reference() / "hooks").glob("*.patch"))
    for hook, patch in zip(hooks, series[1:], strict=True):
        hold_all_of(hook, patch)


def test_every_new_source_is_built(series: list[Path]) -> None:
    """A header that nobody includes, or a file that no Makefile names, is never compiled."""
    added = "\n".join(line for patch in series[1:] for line in changed(patch.read_text()) if line.startswith("+"))
    sources = list((paths.reference() / "files").rglob("*.[ch]"))
    assert len(sources) > 5
    for path in sources:
        use = rf'#include ".*\b{path.name}"' if path.suffix == ".h" else rf"\b{path.stem}\.o\b"
        assert re.search(use, added), path.name


def test_git_am_takes_it(
    series: list[Path],
    kernel_tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in AUTHOR.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["export", str(tmp_path / "my series"), f"--kernel={kernel_tree}"]) == 0
    told = capsys.readouterr().out
    work = tmp_path / "linux"
    for name in NEEDED:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        run("cp", "-a", str(kernel_tree / name), str(work / name), cwd=tmp_path)
    run("cp", str(kernel_tree / "MAINTAINERS"), str(work), cwd=tmp_path)
    run("git", "init", "--quiet", cwd=work)
    for key, value in (
        ("user.name", "A Maintainer"),
        ("user.email", "maintainer@example.org"),
        ("commit.gpgsign", "false"),
    ):
        run("git", "config", key, value, cwd=work)
    run("git", "add", "--all", "--force", cwd=work)
    run("git", "commit", "--quiet", "--message=base", cwd=work)
    # As it is typed: whatever the glob takes.
    (typed,) = re.findall(r"^    (git am .*)$", told, re.MULTILINE)
    run("sh", "-c", f"{typed.replace('git am', 'git am --quiet')}", cwd=work)
    subjects = run("git", "log", "--format=%s", f"-{len(series) - 1}", cwd=work).splitlines()
    hooks = sorted((paths.reference() / "hooks").glob("*.patch"))
    assert subjects[::-1] == [read_hook(hook).message.splitlines()[0] for hook in hooks]
    assert run("git", "status", "--short", cwd=work) == ""


def test_checkpatch_strict_has_nothing_to_say(
    series: list[Path], checkpatch: Callable[..., str], tmp_path: Path
) -> None:
    # It knows that a cover letter is no patch by the name that git format-patch gives it.
    cover = tmp_path / "0000-cover-letter.patch"
    cover.write_bytes(series[0].read_bytes())
    assert checkpatch(cover, *series[1:]) == ""


def test_series_can_be_built_step_by_step(series: list[Path]) -> None:
    """No step uses what a later one brings: names of the dump's API appear only from the patch that declares them."""
    declared: set[str] = set()
    for patch in series[1:]:
        added = "\n".join(line[1:] for line in patch.read_text().splitlines() if re.match(r"\+(?!\+\+)", line))
        declared |= set(
            re.findall(r"\b(?:void|bool|u32|int)\s+\*?((?:iommu_ptd|io_pgtable_ptd|iommu_put_pages_list)\w*)\(", added)
        )
        used = set(
            re.findall(r"\b((?:iommu_ptd|io_pgtable_ptd)_(?:add|del|id|table_ok)|iommu_put_pages_list_now)\(", added)
        )
        assert used <= declared, f"{patch.name}: {used - declared}"


def test_a_symbol_is_exported_by_the_patch_whose_module_needs_it(series: list[Path]) -> None:
    built_in = re.compile(r"drivers/iommu/(?:iommu|iommu-pages|iommu-ptdump[a-z-]*|io-pgtable[a-z-]*)\.[ch]")
    header = (paths.reference() / "files/drivers/iommu/iommu-ptdump.h").read_text()
    macro = header.partition("#define IOMMU_PTD_FILE")[2]
    exported_at_all = 0
    for patch in series[1:]:
        files = [part.splitlines() for part in patch.read_text().split("\ndiff --git a/")[1:]]
        added = [(lines[0].split()[0], "\n".join(one[1:] for one in lines if one.startswith("+"))) for lines in files]
        exported = {name for _, text in added for name in re.findall(r"(?m)^EXPORT_SYMBOL\w*\((\w+)", text)}
        modules = "\n".join(text for name, text in added if not built_in.fullmatch(name))
        used = set(re.findall(r"\w+", modules + (macro if "IOMMU_PTD_FILE(" in modules else "")))
        assert exported <= used, f"{patch.name}: {exported - used}"
        exported_at_all += len(exported)
    assert exported_at_all > 0


def test_v1s_file_goes_on_top_of_the_series(
    series: list[Path],
    kernel_tree: Path,
    tmp_path: Path,
    checkpatch: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in AUTHOR.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["export", "--io-page-tables", str(tmp_path / "more"), f"--kernel={kernel_tree}"]) == 0
    (patch,) = (tmp_path / "more").glob("*.patch")
    assert checkpatch(patch) == ""
    (hook,) = (paths.additions()[1] / "hooks").glob("*.patch")
    hold_all_of(hook, patch)
    base = tmp_path / "base"
    for name in re.findall(r"(?m)^--- a/(\S+)", "".join(path.read_text() for path in (*series[1:], patch))):
        if (kernel_tree / name).exists():
            (base / name).parent.mkdir(parents=True, exist_ok=True)
            (base / name).write_bytes((kernel_tree / name).read_bytes())
    run("git", "init", "--quiet", cwd=base)
    for key, value in (("user.name", "A Maintainer"), ("user.email", "maintainer@example.org")):
        run("git", "config", key, value, cwd=base)
    run("git", "add", "--all", "--force", cwd=base)
    run("git", "commit", "--quiet", "--message=base", cwd=base)
    run("git", "am", "--quiet", *map(str, series[1:]), str(patch), cwd=base)
    assert (base / "drivers/iommu/iommu-ptdump-dma.c").is_file()


def test_nobody_to_sign_off_is_said(kernel_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in AUTHOR:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SetupError, match="sign-off"):
        export_series(kernel_tree, tmp_path / "out")


def test_a_hook_that_does_not_apply_is_named(
    kernel_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in AUTHOR.items():
        monkeypatch.setenv(name, value)
    tree = tmp_path / "tree"
    for name in ("drivers/iommu", "include/linux", "mm"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        run("cp", "-a", str(kernel_tree / name), str(tree / name), cwd=tmp_path)
    run("cp", str(kernel_tree / "MAINTAINERS"), str(tree), cwd=tmp_path)
    pages = tree / "drivers/iommu/iommu-pages.c"
    pages.write_text(pages.read_text().replace("__iommu_free_desc", "somebody_renamed_it"))
    with pytest.raises(SetupError, match="000[12]-iommu-pages"):
        export_series(tree, tmp_path / "out")


@pytest.mark.parametrize("fix", fixes(), ids=lambda fix: fix.hook.stem)
def test_a_fix_applies_alone_and_says_how_to_see_the_fault(
    fix: SeriesPatch, kernel_tree: Path, tmp_path: Path, checkpatch: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in AUTHOR.items():
        monkeypatch.setenv(name, value)
    assert fix.alone or "\nTo reproduce:" in fix.message
    assert not fix.new_files
    work = tmp_path / "linux"
    for path in fix.touched:
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        (work / path).write_bytes((kernel_tree / path).read_bytes())
    run("git", "init", "--quiet", cwd=work)
    for key, value in (("user.name", "A Maintainer"), ("user.email", "maintainer@example.org")):
        run("git", "config", key, value, cwd=work)
    run("git", "add", "--all", "--force", cwd=work)
    run("git", "commit", "--quiet", "--message=base", cwd=work)
    (mine,) = [path for path in export_fixes(kernel_tree, tmp_path / "out", [fix])]
    hold_all_of(fix.hook, mine)
    run("git", "am", "--quiet", str(mine), cwd=work)
    assert run("git", "log", "--format=%s", "-1", cwd=work).strip() == fix.message.splitlines()[0]
    assert checkpatch(mine) == ""


def test_fixes_are_written_on_demand(
    kernel_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in AUTHOR.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["export", "--fixes", str(tmp_path / "fixes"), f"--kernel={kernel_tree}"]) == 0
    assert len(list((tmp_path / "fixes").iterdir())) == len(fixes()) >= 8
    assert "git am" in capsys.readouterr().out
