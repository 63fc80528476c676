# SPDX-License-Identifier: GPL-2.0-only
"""The reference implementation as a series for the mailing list, for ``git am`` and for maintainers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_iommu.core import paths
from pytest_iommu.core.outcomes import SetupError

COVER = "0000-cover-letter.txt"
_ALONE = "Stands alone: yes"
_TOUCHED = re.compile(r"(?m)^(?:---|\+\+\+) [ab]/(\S+)")


@dataclass(frozen=True, slots=True)
class SeriesPatch:
    """One patch: a hook's commit message, its diff of existing files, and its new files.

    ``alone``: it is a fix that does not need the rest of the series.
    """

    hook: Path
    message: str
    new_files: tuple[str, ...]
    alone: bool

    @property
    def touched(self) -> frozenset[str]:
        return frozenset(_TOUCHED.findall(self.hook.read_text()))


def read_hook(hook: Path) -> SeriesPatch:
    """Parse ``Subject:``, body, ``Stands alone: yes`` and the list under ``New files:``; the diff stays in the file.

    SetupError if the file has no subject or no ``---`` line.
    """
    head, found, _ = hook.read_text().partition("\n---\n")
    subject, _, rest = head.partition("\n")
    if not found or not subject.startswith("Subject: "):
        raise SetupError(f"{hook}: a hook must begin with 'Subject: ' and have a '---' line before its diff")
    body, _, listed = rest.partition("\nNew files:\n")
    text = body.strip()
    alone = text.endswith(_ALONE)
    message = f"{subject.removeprefix('Subject: ')}\n\n{text.removesuffix(_ALONE).strip()}\n"
    return SeriesPatch(hook, message, tuple(line.strip() for line in listed.splitlines() if line.strip()), alone)


def git(work: Path, *arguments: str, stdin: str | None = None) -> str:
    """Run git in a directory; returns what it prints. SetupError if it fails."""
    # The user's own configuration (hooks, signing, templates) must not influence the export.
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", "-C", str(work), *arguments], input=stdin, capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode != 0:
        raise SetupError(f"git {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
    return done.stdout


def _identity() -> tuple[str, str]:
    """Return the name and address that sign the patches off: those that git would use here."""
    wanted = (("GIT_AUTHOR_NAME", "user.name"), ("GIT_AUTHOR_EMAIL", "user.email"))
    found = []
    for variable, key in wanted:
        asked = subprocess.run(["git", "config", key], capture_output=True, text=True, check=False)
        value = os.environ.get(variable) or asked.stdout.strip()
        if not value:
            raise SetupError(f"patches need a sign-off: set git config {key}, or {variable}")
        found.append(value)
    return found[0], found[1]


def _begin(work: Path, tree: Path, files: Iterable[str], identity: tuple[str, str]) -> None:
    """Make a repository of these files as they are in the tree."""
    name, address = identity
    git(work, "init", "--quiet", "--initial-branch=series")
    git(work, "config", "user.name", name)
    git(work, "config", "user.email", address)
    for path in sorted(files):
        _copy(tree / path, work / path)
    git(work, "add", "--all")
    git(work, "commit", "--quiet", "--message=base")


def export_series(tree: Path, out: Path) -> list[Path]:
    """Write the series for this tree into ``out``, a cover letter first; returns the files in order.

    The tree is only read. SetupError if a hook does not apply to it, or if there is no identity for the sign-off.
    """
    reference = paths.reference()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        steps = _committed(work, tree, [reference])[0]
        out.mkdir(parents=True, exist_ok=True)
        for old in out.glob("[0-9][0-9][0-9][0-9]-*.patch"):
            old.unlink()
        base = f"HEAD~{len(steps)}"
        git(
            work,
            "format-patch",
            "--quiet",
            "--cover-letter",
            "--no-signature",
            f"--output-directory={out.resolve()}",
            base,
        )
    # Not a .patch: `git am DIR/*.patch` would try to apply it, and stop.
    cover = (out / "0000-cover-letter.patch").rename(out / COVER)
    subject, _, body = (reference / "cover-letter").read_text().partition("\n")
    text = cover.read_text().replace("*** SUBJECT HERE ***", subject)
    cover.write_text(text.replace("*** BLURB HERE ***", body.strip()))
    return [cover, *sorted(out.glob("*.patch"))]


def export_on_top(tree: Path, out: Path) -> list[Path]:
    """Write what goes on top of that series, without a cover letter: the file of v1 (docs/io_page_tables.md).

    The tree is only read. SetupError as for export_series().
    """
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        _, *more = _committed(work, tree, paths.additions())
        out.mkdir(parents=True, exist_ok=True)
        base = f"HEAD~{sum(map(len, more))}"
        said = git(work, "format-patch", "--no-signature", f"--output-directory={out.resolve()}", base)
    return [Path(line) for line in said.splitlines()]


def _steps(part: Path) -> list[SeriesPatch]:
    return [read_hook(hook) for hook in sorted((part / "hooks").glob("*.patch"))]


def _committed(work: Path, tree: Path, parts: Sequence[Path]) -> list[list[SeriesPatch]]:
    """Make a repository with a commit for each step of the parts, on the tree's files; returns the steps by part."""
    every = [_steps(part) for part in parts]
    new = {path for steps in every for step in steps for path in step.new_files}
    _begin(work, tree, {path for steps in every for step in steps for path in step.touched} - new, _identity())
    for part, steps in zip(parts, every, strict=True):
        for step in steps:
            git(work, "apply", "--index", str(step.hook))
            for path in step.new_files:
                _copy(part / "files" / path, work / path)
            git(work, "add", "--all")
            git(work, "commit", "--quiet", "--signoff", "--file=-", stdin=step.message)
    return every


def fixes() -> list[SeriesPatch]:
    """The fixes of mainline that need nothing of the reference implementation, by file name."""
    reference = paths.reference()
    steps = _steps(reference)
    return [*(read_hook(fix) for fix in sorted((reference / "fixes").glob("*.patch"))), *(s for s in steps if s.alone)]


def export_fixes(tree: Path, out: Path, which: Sequence[SeriesPatch] | None = None) -> list[Path]:
    """Write each fix for this tree into ``out``, a patch against the tree alone; returns the files in order.

    The tree is only read. SetupError if a fix does not apply to it, or if there is no identity for the sign-off.
    """
    identity = _identity()
    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for fix in fixes() if which is None else which:
        with tempfile.TemporaryDirectory() as scratch:
            work = Path(scratch)
            _begin(work, tree, fix.touched, identity)
            git(work, "apply", "--index", str(fix.hook))
            git(work, "commit", "--quiet", "--signoff", "--file=-", stdin=fix.message)
            target = out / f"{fix.hook.stem.lstrip('0123456789-')}.patch"
            target.write_text(git(work, "format-patch", "--quiet", "--stdout", "--no-signature", "HEAD~1"))
            written.append(target)
    return written


def _copy(source: Path, target: Path) -> None:
    if not source.exists():
        raise SetupError(f"{source} does not exist; the series is written against a complete tree")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
