# SPDX-License-Identifier: GPL-2.0-only
"""Reads after the commands of a phase: the operations, and the judges of their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_iommu.check.directory import NONE, NOT_OFFERED, UNKNOWN
from pytest_iommu.check.witnesses.translations import Translations
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.core.protocol import Op, Result
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import DEBUGFS, MODULE, parse_domains

if TYPE_CHECKING:
    from pytest_iommu.check.witnesses.in_ram import InRam
    from pytest_iommu.compare.comparison import Comparison
    from pytest_iommu.dialects import Dialect
    from pytest_iommu.scenario import Access, Check, ReadCheck, ReadHow

SLOT = 0
NO_ID = "0"
"""Replaces the id of a domain without a directory: ids start at 1, so its files do not exist."""

RULE_OF_FILE = {"info": "INF-1", "page_table": "RNG-1", "entries": "ENT-1", "stats": "ENT-2"}
RULE_OF_ACTION = {"exists": "LAY-4", "open": "CON-9", "read": "CON-9"}

Files = dict[str, bytes]
Compared = Callable[["Comparison"], None]
"""Called with every comparison."""


@dataclass(frozen=True, slots=True)
class Job:
    """Operations, and the judge of their results, which returns the failures."""

    ops: Sequence[Op]
    judge: Callable[[Sequence[Result], Files], list[CheckFailed]]


@dataclass(frozen=True, slots=True)
class Where:
    """Where the domains of a scenario are: their debugfs ids by name, the files of a directory, the guest's memory."""

    ids: Mapping[str, str]
    dialect: Dialect
    in_ram: InRam | None = None
    #: the domains in which something was unmapped
    unmapped: frozenset[str] = frozenset()

    def dialect_of(self, domain: str) -> Dialect:
        """What the files of a domain are written in: nothing, if the dump was not offered its table."""
        from pytest_iommu.dialects import NO_DUMP

        return NO_DUMP if self.ids.get(domain) == UNKNOWN else self.dialect

    def path(self, domain: str, file: str) -> str:
        """Return the path of a file in the domain's directory. Skips if the dump was not offered its table."""
        number = self.ids.get(domain, NONE)
        if number == UNKNOWN:
            pytest.skip(NOT_OFFERED)
        place = self.dialect.place.format(domain=NO_ID if number == NONE else number, file=file)
        return f"{DEBUGFS}/{place}".rstrip("/")


def ignore_comparison(comparison: Comparison) -> None:
    """Ignore the comparison."""


def joined(problems: Sequence[CheckFailed], files: Files) -> CheckFailed:
    """Join all problems into one failure; the rules and verdict of the first one come first."""
    rules = [rule for problem in problems for rule in problem.rules]
    related = [rule for problem in problems for rule in problem.related if rule not in rules]
    verdict, because = problems[0].verdict, problems[0].because
    if {Verdict.DUMP, Verdict.MAPPING} <= {problem.verdict for problem in problems}:
        verdict, because = Verdict.BOTH, ""
    return CheckFailed(
        "\n\n".join(problem.message for problem in problems),
        tuple(dict.fromkeys(rules)),
        tuple(dict.fromkeys(related)),
        files,
        verdict=verdict,
        because=because,
        domains=tuple(dict.fromkeys(name for problem in problems for name in problem.domains)),
        table=problems[0].table,
    )


def check_job(check: Check, where: Where, compared: Compared) -> Job:
    """Read a domain's whole directory and compare it with the expected text and with memory."""
    from pytest_iommu.check.witnesses.in_ram import ranges_of
    from pytest_iommu.compare.comparison import compare, expected_texts

    domain = check.domain
    dialect = where.dialect_of(domain)
    names = dialect.files
    translations = Translations(domain, check.expected)

    def judge(results: Sequence[Result], files: Files) -> list[CheckFailed]:
        texts: dict[str, str] = {}
        wrong: list[CheckFailed] = []
        for name, result in zip(names, results, strict=False):
            files[f"{domain}.{name}.txt"] = result.data
            if result.ok:
                texts[name] = ops.text_of(result)
            else:
                wrong.append(_unreadable(check, name, result, where))
        if names and not texts:
            return wrong[:1]
        memory, blamed = None, False
        try:
            memory = _memory(check, where, results[len(names)], files)
        except CheckFailed as error:
            # The table itself is not as it must be: a dump that shows it says nothing of who is wrong.
            wrong.insert(0, error)
            blamed = True
        if not names and memory is None and not wrong:
            none = "this kernel has no dump" if not where.dialect.files else NOT_OFFERED
            pytest.skip(f"{none}, and the page table of domain {domain} is not found in memory")
        unmapped = domain in where.unmapped
        comparison = compare(check.expected, texts, dialect=dialect, memory=memory, unmapped=unmapped)
        compared(comparison)
        if not comparison.ok:
            when = f", as at line {check.line}" if check.line else ""
            failure = comparison.failure(f"domain {domain}{when}:\n", (domain,))
            wrong.append(failure.told(failure.message, verdict=Verdict.UNDECIDED) if blamed else failure)
            files[f"{domain}.differences.txt"] = comparison.everything.encode()
            for name, text in expected_texts(check.expected).items():
                files[f"{domain}.{name}.expected.txt"] = text.encode()
        answers = results[len(paths) :]
        looked_up = translations.check(answers, check.expected.ranges, memory is not None)
        if looked_up and memory is not None and not comparison.ok:
            # The table itself is wrong: the lookup must agree with what is in memory.
            looked_up = translations.check(answers, ranges_of(memory), True)
        return wrong + looked_up

    # The module's own list is read even without access to memory, so that a recording sees the same batch.
    paths = [*(where.path(domain, name) for name in names), f"{MODULE}/domains"]
    return Job([*(ops.read_file(path) for path in paths), *translations.ops], judge)


def _memory(check: Check, where: Where, listed: Result, files: Files) -> Mapping[str, str] | None:
    """Return the files as they follow from the guest's memory, or None if unknown."""
    row = parse_domains(ops.text_of(listed)).get(check.domain) if listed.ok else None
    if where.in_ram is None or row is None:
        return None
    texts = where.in_ram.texts(check.expected.config, row)
    for name, text in (texts or {}).items():
        files[f"{check.domain}.{name}.ram.txt"] = text.encode()
    return texts


def _unreadable(check: Check, name: str, result: Result, where: Where) -> CheckFailed:
    domain, errno = check.domain, ops.errno_name(result.value)
    if errno == "ENOENT":
        number = where.ids.get(domain, "-")
        what = "has no directory" if number == "-" else f"has the id {number}, and no such file"
        text, rule = f"domain {domain} {what}: {where.path(domain, name)}", "LAY-2"
    else:
        text, rule = f"reading {name} of domain {domain} failed: {errno}", RULE_OF_FILE.get(name, "LAY-2")
        if name == "page_table" and not check.expected.ranges:
            rule = "RNG-6"
    return CheckFailed(text, (rule,), verdict=Verdict.DUMP, because="it cannot be read", domains=(domain,))


def read_job(read: ReadCheck, where: Where) -> Job:
    """Read a file in pieces (CON-10) and compare with the same file read at once."""
    from pytest_iommu.compare.comparison import compare_reads

    path = where.path(read.domain, read.file)
    pieces = _read_ops(path, read.how)

    def judge(results: Sequence[Result], files: Files) -> list[CheckFailed]:
        whole, *parts = results
        bad = next((result for result in results if not result.ok), None)
        if bad is not None:
            what = f"reading {path} failed: {ops.errno_name(bad.value)} ({read.how})"
            return [CheckFailed(what, ("CON-10",), verdict=Verdict.DUMP)]
        if not read.same:
            return []
        got = _pieces(read.how, parts)
        files[f"{read.domain}.{read.file}.whole.txt"] = whole.data
        for number, piece in enumerate(got):
            files[f"{read.domain}.{read.file}.piece{number}.txt"] = piece.encode()
        comparison = compare_reads(read.file, ops.text_of(whole), got, read.how)
        if comparison.ok:
            return []
        return [comparison.failure(domains=(read.domain,))]

    return Job([ops.read_file(path), *pieces], judge)


def _read_ops(path: str, how: ReadHow) -> list[Op]:
    if how.kind == "chunk":
        return [ops.read_file(path, chunk=how.chunk)]
    if how.kind == "parallel":
        return [ops.parallel_read(path, chunk=how.chunk, threads=how.threads)]
    opened = ops.open_file(SLOT, path)
    closed = ops.close(SLOT)
    if how.kind == "pread":
        return [opened, *(ops.pread(SLOT, how.size, offset) for offset in how.offsets), closed]
    sought = [op for offset in how.offsets for op in (ops.lseek(SLOT, offset), ops.read(SLOT, how.size))]
    return [opened, *sought, closed]


def _pieces(how: ReadHow, results: Sequence[Result]) -> list[str]:
    if how.kind == "chunk":
        return [ops.text_of(results[0])]
    if how.kind == "parallel":
        return [part.decode("utf-8", "backslashreplace") for part in ops.split_parallel(results[0].data)]
    inner = results[1:-1]
    return [ops.text_of(result) for result in (inner if how.kind == "pread" else inner[1::2])]


def access_job(access: Access, where: Where) -> Job:
    """Try an access that a file must allow or refuse (LAY-5, CON-9), and compare the outcome."""
    path = access.path or where.path(access.domain, access.file)
    batch = _access_ops(path, access.action)
    action, want = access.action, access.want

    def judge(results: Sequence[Result], files: Files) -> list[CheckFailed]:
        got = _access_outcome(action, results)
        if got == want:
            return []
        rule = RULE_OF_ACTION.get(action, "LAY-5")
        return [CheckFailed(f"line {access.line}: {action} of {path}: got {got}, expected {want}", (rule,))]

    return Job(batch, judge)


def _access_ops(path: str, action: str) -> list[Op]:
    if action in ("exists", "mode"):
        return [ops.stat(path)]
    if action == "read":
        return [ops.read_file(path)]
    if action == "write":
        return [ops.write_file(path, b"1\n")]
    opened = ops.open_file(SLOT, path)
    return [opened, ops.ioctl(SLOT, 0x5401), ops.close(SLOT)] if action == "ioctl" else [opened, ops.close(SLOT)]


def _access_outcome(action: str, results: Sequence[Result]) -> str:
    first = results[0]
    if action == "exists":
        return "true" if first.ok else "false"
    if action == "mode" and first.ok:
        return f"{first.value & 0o7777:04o}"
    decisive = results[1] if action == "ioctl" and first.ok else first
    return "ok" if decisive.ok else ops.errno_name(decisive.value)
