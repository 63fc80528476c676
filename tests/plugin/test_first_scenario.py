# SPDX-License-Identifier: GPL-2.0-only
"""docs/first-scenario.md: every file of the walk, every command, and what the page says that it prints."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from recording import as_it_is, record

PAGE = (Path(__file__).parents[2] / "docs" / "first-scenario.md").read_text(encoding="utf-8")
FILE = "first.iommu.yaml"
WRONG = "A wrong dump"
WITHOUT_MEMORY = {
    "the dump is wrong (memory is as expected): ": "the dump differs from what is expected...: ",
    "    expected, in RAM  ": "    expected  ",
    "    dumped            ": "    dumped    ",
}
"""What is printed on QEMU, and what a recording prints, whose memory nobody can look into."""


@dataclass
class Command:
    """One command of a section, with the lines that follow it."""

    text: str
    output: list[str] = field(default_factory=list)


def blocks() -> Iterator[tuple[str, str]]:
    """Section and text of all code, in order."""
    section, block = "", []
    for line in [*PAGE.splitlines(), "the end"]:
        if line.startswith("    ") or (not line and block):
            block.append(line[4:])
        elif block:
            # A file and the commands that follow it are two blocks, which only an empty line parts.
            text = "\n".join(block).strip("\n")
            scenario, shell, commands = text.partition("\n\n$ ") if text.startswith("suite:") else ("", "", text)
            yield from ((section, one) for one in (scenario, f"{'$ ' if shell else ''}{commands}") if one)
            block = []
        if line.startswith("## "):
            section = line[3:]


BLOCKS = list(blocks())


def commands(text: str) -> list[Command]:
    found: list[Command] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append(Command(line[2:]))
        else:
            found[-1].output.append(line)
    return found


def escaped(line: str) -> str:
    """For fnmatch; `...` stands for anything."""
    for on_qemu, recorded in WITHOUT_MEMORY.items():
        line = line.replace(on_qemu, recorded)
    return line.replace("[", "[[]").replace("...", "*")


def wrong(case: str, file: str, text: str) -> str:
    """A kernel whose dump shows output addresses 8K too high."""
    return text.replace("0x0000000041000000", "0x0000000041002000")


class Walker:
    """Does what the page says, on recordings in the place of QEMU."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.recordings = 0

    def lines(self, command: Command, section: str) -> list[str]:
        """What a command prints."""
        program, *words = command.text.split()
        if program == "touch":
            assert words == [FILE]
            (self.pytester.path / FILE).touch()
            return []
        if program == "pytest-iommu":
            return self.pytester.run(sys.executable, "-m", "pytest_iommu.cli", *words).outlines
        if program == "cat":
            (path,) = self.pytester.path.glob(words[0])
            return path.read_text().splitlines()
        if program == "ls":
            (folder,) = self.pytester.path.glob(words[0])
            return sorted(path.name for path in folder.iterdir())
        assert program == "pytest"
        return self.pytester.runpytest_subprocess(*self._on_a_recording(words, section)).outlines

    def _on_a_recording(self, words: list[str], section: str) -> list[str]:
        if "--iommu-target=qemu" not in words:
            return words
        self.recordings += 1
        name = f"recording{self.recordings}"
        path = self.pytester.path
        record(path / name, path / FILE, wrong if section == WRONG else as_it_is)
        return [word.replace("qemu", f"replay:{name}") for word in words]


def test_the_walk_is_as_the_page_says(pytester: pytest.Pytester) -> None:
    walker, ran = Walker(pytester), []
    for section, text in BLOCKS:
        if text.startswith("suite:"):
            (pytester.path / FILE).write_text(f"{text}\n")
            continue
        for command in commands(text):
            ran.append(command.text)
            printed = walker.lines(command, section)
            if command.output:
                matcher = pytest.LineMatcher(printed)
                matcher.fnmatch_lines([escaped(line) for line in command.output])
            if "lint" in command.text or command.text.startswith("ls "):
                assert len(printed) == len(command.output), printed
    assert len(ran) == 13


def test_every_file_of_the_walk_differs_from_the_one_before() -> None:
    files = [text for _, text in BLOCKS if text.startswith("suite:")]
    assert len(files) == 6
    assert all(one != other for one, other in pairwise(files))


def test_lines_fit_a_page() -> None:
    written = [line for line in PAGE.splitlines() if not line.startswith("    0x")]
    assert [line for line in written if len(line) > 100] == []
