# SPDX-License-Identifier: GPL-2.0-only
"""Can the suite fail? Seeds one bug at a time and looks whether it is found, and under the right rule.

A mutant of the dump changes a copy of the reference implementation, one of the kernel a copy of a kernel tree that has
no dump: one incremental build, one run of the suite. It is caught when a test fails whose first-named rule is the
mutant's. A mutant of the parser changes a copy of this project, and the unit tests have to fail. Exit status: 0 when
all are caught, 1 when not, 2 for other trouble.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mutant
import tree_copy
import verdicts
from mutant import Mutant, MutantError

from pytest_iommu.core import paths
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.rules import RULES
from pytest_iommu.images.source import Source
from pytest_iommu.report.summary import INFRASTRUCTURE

ROOT = Path(__file__).resolve().parents[2]
GUESTS = ("--iommu-target=qemu", "--iommu-keep=none")
# The kselftest is made of the same scenarios: it would find the same once more.
SUITE = ("--pyargs", "pytest_iommu.conformance", "--ignore-glob=*.iommu-ksft", *GUESTS)
QUIET = ("-q", "--tb=no", "--no-header", "-p", "no:cacheprovider")
LIMIT = 1800
"""Seconds after which a run is given up: a first build of a kernel fits in."""
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "build", "dist")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one run: ``word`` for the table, which rules were named first by how many tests, and details."""

    word: str
    first: Counter[str]
    detail: str = ""
    artefacts: frozenset[Path] = frozenset()

    @property
    def good(self) -> bool:
        return self.word == "caught"


@contextmanager
def scratch(cache: Path) -> Iterator[Path]:
    """A directory for one mutant's copy."""
    place = cache / "mutants"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)
    if not any(place.iterdir()):
        place.rmdir()


def call(argv: Sequence[str], env: dict[str, str], where: Path = ROOT) -> tuple[int, str]:
    """Run a program to its end; exit status (-1: given up after LIMIT) and all it said."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(argv, env=os.environ | env, cwd=where, stdout=output, stderr=subprocess.STDOUT)
        try:
            status = process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            status = -1
        finally:
            if process.poll() is None:
                # pytest ends its guests on SIGINT; one that is deaf loses them by their parent's death
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        output.seek(0)
        return status, output.read()


def conformance(
    place: Path, tree: Path | None, one: Mutant, cache: Path, seconds: int, extra: Sequence[str]
) -> Outcome:
    """Build and run the suite; ``survived`` when all of it passes.

    Without ``tree`` the copy of kmod/ in ``place`` is put into the cached kernel, with it that tree is tested as it is.
    """
    report = place / "verdicts.json"
    argv = [sys.executable, "-m", "pytest", *QUIET, "-p", "verdicts", *SUITE, f"--iommu-cache={cache}"]
    argv += [f"--iommu-flavour={one.flavours}", f"--iommu-machine={one.machines}"]
    argv += [*(("-k", one.tests) if one.tests else ()), *extra]
    if tree is None:
        kmod = place / "kmod"
    else:
        kmod = ROOT / "kmod"
        argv += [f"--iommu-kernel={tree}", "--iommu-reference=never"]
    env = {
        "PYTEST_IOMMU_KMOD": str(kmod),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(mutant.HERE), os.environ.get("PYTHONPATH")))),
        verdicts.FILE: str(report),
        verdicts.RULE: one.rule,
        verdicts.SECONDS: str(seconds),
    }
    status, output = call(argv, env)
    try:
        found = json.loads(report.read_text())
    except (OSError, ValueError):
        found = {"passed": 0, "failed": [], "artefacts": []}
    said = [(kind, rules) for _, kind, rules in found["failed"] if kind not in INFRASTRUCTURE]
    first = Counter(mutant.first_named(kind, rules) for kind, rules in said)
    made = frozenset(Path(name) for name in found["artefacts"])
    if said:
        return Outcome("failed", first, "", made)
    if status == 0 and found["passed"]:
        return Outcome("survived", first, f"{found['passed']} passed", made)
    tail = "\n".join(output.rstrip().splitlines()[-12:])
    return Outcome("not run", first, f"exit status {status}\n{tail}", made)


def judge(one: Mutant, outcome: Outcome) -> Outcome:
    """Whether the rule is the right one."""
    if outcome.word != "failed":
        return outcome
    counted = " ".join(f"{rule}:{count}" for rule, count in outcome.first.most_common())
    stray = sorted(set(outcome.first) - {one.rule, *one.also})
    detail = counted + (f"  (unforeseen: {' '.join(stray)})" if stray else "")
    return Outcome("caught" if one.rule in outcome.first else "wrong rule", outcome.first, detail)


def entries(cache: Path) -> set[Path]:
    """Finished kernels, modules and initramfs in the cache."""
    return set((cache / "artefacts").glob("*"))


def tested(
    planted: Mutant | None, how: Mutant, found: Source | None, cache: Path, seconds: int, extra: Sequence[str]
) -> Outcome:
    """Run the suite as ``how`` says, with one mutant or none in the kernel ``found`` or in a copy of the dump."""
    with scratch(cache) as folder:
        if found is not None:
            with tree_copy.planted(cache, found, planted) as tree:
                return conformance(folder, tree, how, cache, seconds, extra)
        shutil.copytree(ROOT / "kmod", folder / "kmod", ignore=LEFT_OUT)
        if planted is not None:
            planted.apply(folder / "kmod" / planted.part)
        return conformance(folder, None, how, cache, seconds, extra)


def run_kernel(one: Mutant, found: Source | None, cache: Path, seconds: int, extra: Sequence[str]) -> Outcome:
    """Build and run one mutant of the dump or of the kernel; what it leaves in the cache is removed.

    Nothing else is, though it be new: another session may have put it there meanwhile.
    """
    before = entries(cache)
    outcome = tested(one, one, found, cache, seconds, extra)
    for path in outcome.artefacts & entries(cache) - before:
        shutil.rmtree(path, ignore_errors=True)
    return judge(one, outcome)


def run_parser(one: Mutant, cache: Path) -> Outcome:
    """Run the unit tests of a changed copy of this project."""
    with scratch(cache) as folder:
        copy = folder / "project"
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT, symlinks=True)
        one.apply(copy)
        # those of images build and fetch; nothing here changes what they are about
        argv = [sys.executable, "-m", "pytest", *QUIET, "-x", "tests/unit", "--ignore-glob=*/test_images_*"]
        status, output = call(argv, {"PYTHONPATH": str(copy)}, copy)
    last = (output.rstrip().splitlines() or [""])[-1]
    return Outcome({0: "survived", 1: "caught"}.get(status, "not run"), Counter(), last)


def sound(found: Source | None, wanted: Sequence[Mutant], cache: Path, seconds: int, extra: Sequence[str]) -> bool:
    """Whether the suite passes without a mutant; if not, the mutants would prove nothing.

    ``found`` is the kernel as it is, None the one with the dump; ``wanted`` the mutants, all of one architecture.
    """
    how = united(wanted)
    kind = "dump" if found is None else f"kernel as it is, {how.machines}"
    outcome = tested(None, how, found, cache, seconds, extra)
    if outcome.word == "survived":
        print(f"without a mutant, {kind}: {outcome.detail}", flush=True)
        return True
    named = " ".join(f"{rule}:{count}" for rule, count in outcome.first.most_common())
    print(f"the suite does not pass without a mutant, {kind}: {named or outcome.detail}")
    return False


def united(wanted: Sequence[Mutant]) -> Mutant:
    """No mutant, with the flavours, machines and tests of all of these."""

    def words(given: Iterable[str]) -> str:
        return ",".join(dict.fromkeys(word for text in given for word in text.split(",")))

    tests = dict.fromkeys(one.tests for one in wanted)
    return Mutant(
        Path(),
        "",
        flavours=words(one.flavours for one in wanted),
        machines=words(one.machines for one in wanted),
        tests="" if "" in tests else " or ".join(f"({words})" for words in tests),
    )


def show(name: str, rule: str, outcome: Outcome, what: str, took: float) -> None:
    """One line of the table."""
    head, _, rest = outcome.detail.partition("\n")
    print(f"{outcome.word:<10} {rule:<6} {name:<36} {took:4.0f}s  {head}", flush=True)
    if not outcome.good and rule:
        print(f"{'':<17} {what}")
    if rest:
        print("\n".join(f"{'':<17} | {line}" for line in rest.splitlines()), flush=True)


def chosen(found: Sequence[Mutant], names: Sequence[str]) -> list[Mutant]:
    """Those whose name has one of ``names`` in it; all without names."""
    return [one for one in found if not names or any(name in one.name for name in names)]


def main() -> int:
    """The command line."""
    description = (__doc__ or "").partition("\n\n")[0]
    parser = argparse.ArgumentParser(description=description, epilog="What follows `--` goes to pytest.")
    parser.add_argument("names", nargs="*", help="only mutants with one of these in their name")
    parser.add_argument("--cache", type=Path, help="as pytest's --iommu-cache")
    parser.add_argument("--only", choices=("dump", "v1", "kernel", "parser"), help="only mutants of one kind")
    parser.add_argument("--seconds", type=int, default=10, help="let a run go on for so long (default 10)")
    parser.add_argument("--unproven", action="store_true", help="do not first run the suite without a mutant")
    parser.add_argument("--check", action="store_true", help="only look whether the patches apply")
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    given, extra = parser.parse_args(words[:at]), words[at + 1 :]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that call() ends its pytest
    cache = (given.cache or paths.default_cache()).absolute()
    try:
        kinds = {
            "dump": mutant.of_dump(RULES),
            "v1": mutant.of_v1(RULES),
            "kernel": mutant.of_tree(RULES),
            "parser": mutant.of_parser(),
        }
        wanted = {kind: chosen(all_, given.names) for kind, all_ in kinds.items() if given.only in (None, kind)}
        found = tree_copy.kernel_source(cache) if wanted.get("kernel") else None
        with scratch(cache) as folder:
            for one in (one for many in wanted.values() for one in many):
                check(folder, one, found)
        if given.check:
            return 0
        return run(wanted, found, cache, given.seconds, given.unproven, extra)
    except (MutantError, SetupError) as error:
        print(error, file=sys.stderr)
        return 2


def check(folder: Path, one: Mutant, found: Source | None) -> None:
    """Apply a patch to a copy of its own. MutantError if it does not fit any more."""
    if one.of_tree:
        if found is not None:
            tree_copy.changes(one, found.path)
        return
    copy = folder / one.name
    if one.rule:
        shutil.copytree(ROOT / "kmod" / one.part, copy)
    else:
        shutil.copytree(ROOT / "pytest_iommu", copy / "pytest_iommu", ignore=LEFT_OUT)
    one.apply(copy)
    shutil.rmtree(copy)


def run(
    wanted: Mapping[str, Sequence[Mutant]],
    found: Source | None,
    cache: Path,
    seconds: int,
    unproven: bool,
    extra: Sequence[str],
) -> int:
    """Run them one after the other and print the table; the exit status."""
    dump, kernel = (*wanted.get("dump", ()), *wanted.get("v1", ())), wanted.get("kernel", ())
    if dump and not unproven and not sound(None, dump, cache, seconds, extra):
        return 2
    for arch in dict.fromkeys(one.arch for one in kernel):
        of_it = [one for one in kernel if one.arch == arch]
        if not unproven and not sound(found, of_it, cache, seconds, extra):
            return 2
    words: Counter[str] = Counter()
    for one in (*wanted.get("parser", ()), *dump, *kernel):
        began = time.monotonic()
        if not one.rule:
            outcome = run_parser(one, cache)
        else:
            outcome = run_kernel(one, found if one.of_tree else None, cache, seconds, extra)
        words[outcome.word] += 1
        show(one.name, one.rule or "-", outcome, one.what, time.monotonic() - began)
    print(", ".join(f"{count} {word}" for word, count in words.most_common()) or "no such mutant")
    return 2 if words["not run"] or not words else int(words["caught"] != words.total())


if __name__ == "__main__":
    sys.exit(main())
