# SPDX-License-Identifier: GPL-2.0-only
"""``pytest-iommu walk`` on images that were saved, and on bare ones."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from synthetic_memory import BASE, SyntheticMemory, Written, write_table

from pytest_iommu.cli import main
from pytest_iommu.core.model import Prot, TableConfig
from pytest_iommu.core.protocol import OutsideMemory
from pytest_iommu.dialects.io_ptdump import render
from pytest_iommu.dialects.smmuv3_debugfs import parse_cd, parse_ste
from pytest_iommu.formats import configure
from pytest_iommu.oracle import TableModel
from pytest_iommu.oracle.saved_memory import SavedDomain, open_image, save_image
from pytest_iommu.oracle.stream_table import SmmuV3

SMMU = 0x09050000
SIZE = 1 << 22
RW = Prot.from_letters("rw")
STAGE1 = configure("arm_64_lpae_s1", ias=48, oas=44)
STAGE2 = configure("arm_64_lpae_s2", ias=44, oas=44)
Say = Callable[..., tuple[int, str, str]]


def table(memory: SyntheticMemory, config: TableConfig, *iovas: int) -> Written:
    model = TableModel(config)
    for iova in iovas:
        model.map(iova, 0x40100000, 0x3000, RW)
    return write_table(memory, model.snapshot())


class Machine:
    """Streams 8 (stage 1) and 16 (stage 2), and a domain `soft`, a table of AMD's that no stream leads to."""

    def __init__(self) -> None:
        self.memory = memory = SyntheticMemory(SIZE)
        streams, descriptor, queue = memory.allocate(64 << 5), memory.allocate(64), memory.allocate(32 << 2)
        self.one, self.two = table(memory, STAGE1, 0x1000000), table(memory, STAGE2, 0x5000, 0x7FFFF000)
        self.loose = table(memory, configure("amdv1"), 1 << 40)
        memory.words(descriptor, [16 | 3 << 30 | 4 << 32 | 1 << 41, self.one.top, 0, 0xF404FF44])
        memory.words(streams + 8 * 64, [descriptor | 0xB])
        memory.words(streams + 16 * 64, [0xD, 0, 20 << 32 | 2 << 38 | 4 << 48 | 1 << 51, self.two.top])
        memory.words(queue, [0x8_00000010, 2 << 40, 0x1234000, 0])
        for offset, value in ((0x80, streams | 1 << 62), (0x88, 5), (0xA0, queue | 2), (0x100A8, 1)):
            memory.registers[SMMU + offset] = value
        self.streams = streams

    def domains(self, *failed: str) -> list[SavedDomain]:
        """The three of them, by the names of a test."""
        loose = self.loose
        return [
            SavedDomain("one", STAGE1, self.one.top, 4, (8,), "one" in failed),
            SavedDomain("two", STAGE2, self.two.top, 4, (16,), "two" in failed),
            SavedDomain("soft", loose.expected.config, loose.top, loose.expected.top + 1, (), "soft" in failed),
        ]

    def save(self, folder: Path, domains: Sequence[SavedDomain] = ()) -> Path:
        path = folder / "ram.img"
        save_image(self.memory, BASE, SIZE, SMMU, path, domains)
        return path

    def save_unpacked(self, folder: Path) -> Path:
        """As it was saved once: RAM byte for byte, the registers in a file beside it."""
        path = folder / "old.img"
        path.write_bytes(self.memory.ram)
        held = {f"{at - SMMU:#x}": f"{value:#x}" for at, value in self.memory.registers.items()}
        said = {"ram": f"{BASE:#x}", "smmu": f"{SMMU:#x}", "registers": held}
        path.with_name("old.img.json").write_text(json.dumps(said))
        return path


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run the program; status, output, errors."""

    def run(*words: object) -> tuple[int, str, str]:
        status = main(["walk", *map(str, words)])
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize("save", [Machine.save, Machine.save_unpacked])
def test_saved_image(machine: Machine, tmp_path: Path, say: Say, save: Callable[[Machine, Path], Path]) -> None:
    image = save(machine, tmp_path)
    for sid, written in ((8, machine.one), (16, machine.two)):
        texts = render(written.dump())
        assert say(image, "--stream", sid) == (0, texts["page_table"], "")
        for name in ("page_table", "entries", "stats"):
            assert say(image, "--stream", sid, "--file", name)[1] == texts[name]
    status, text, _ = say(image, "--stream", 8, "--file", "ste")
    assert (status, parse_ste(text).config) == (0, "only S1_TRANS")
    assert parse_cd(say(image, "--stream", 8, "--file", "cd")[1])[0].ttb0 == machine.one.top
    assert say(image, "--stream", 16, "--file", "cd") == (0, "", "")


def test_all_streams(machine: Machine, tmp_path: Path, say: Say) -> None:
    one, two, soft = (render(written.dump())["page_table"] for written in (machine.one, machine.two, machine.loose))
    assert say(machine.save(tmp_path), "--all") == (0, f"# stream 8\n{one}# stream 16\n{two}", "")
    text = f"# stream 8\n{one}# stream 16\n{two}# domain soft\n{soft}"
    assert say(machine.save(tmp_path, machine.domains()), "--all") == (0, text, "")


def test_a_domain_by_its_name(machine: Machine, tmp_path: Path, say: Say) -> None:
    image = machine.save(tmp_path, machine.domains())
    for name, written in (("one", machine.one), ("two", machine.two), ("soft", machine.loose)):
        for file in ("page_table", "entries", "stats"):
            assert say(image, "--domain", name, "--file", file) == (0, render(written.dump())[file], "")
    assert parse_ste(say(image, "--domain", "two", "--file", "ste")[1]).sid == 16
    assert "no domain three in the image; there are: one, two, soft" in say(image, "--domain", "three")[2]
    assert "no domain one in the image; there are: none" in say(machine.save(tmp_path), "--domain", "one")[2]


def test_without_options_it_is_the_domain_that_can_only_be_meant(machine: Machine, tmp_path: Path, say: Say) -> None:
    soft = render(machine.loose.dump())["page_table"]
    told = f"# domain soft, amdv1, top 0x{machine.loose.top:016x}\n"
    assert say(machine.save(tmp_path, machine.domains("soft"))) == (0, soft, told)
    assert say(machine.save(tmp_path, machine.domains()[2:])) == (0, soft, told)
    for domains in (machine.domains(), machine.domains("one", "soft")):
        status, text, said = say(machine.save(tmp_path, domains))
        assert (status, text) == (2, "")
        assert "--domain=NAME, --stream=SID or --all: domains: one, two, soft; streams that translate: 8, 16" in said


def test_saved_image_is_what_was_read(machine: Machine, tmp_path: Path) -> None:
    machine.memory.write(BASE + SIZE - 4096, b"nobody reads this" * 100)
    image = machine.save(tmp_path, machine.domains())
    saved, live = open_image(image), machine.memory.ram
    kept = []
    for at in range(0, SIZE, 4096):
        try:
            page = bytes(saved.read(BASE + at, 4096))
        except OutsideMemory:
            continue
        assert page == live[at : at + 4096]
        kept.append(at)
    assert 10 < len(kept) < 40
    assert SIZE - 4096 not in kept
    assert saved.smmu == SMMU
    assert list(saved.domains.values()) == machine.domains()
    (event,) = SmmuV3(saved, SMMU).events()
    assert (event.name, event.iova) == ("F_TRANSLATION", 0x1234000)
    assert saved.register(SMMU + 0x80, 8) == machine.streams | 1 << 62
    for address, size in ((BASE + SIZE - 4, 8), (BASE - 4096, 8), (BASE + SIZE - 4096, 8)):
        with pytest.raises(OutsideMemory):
            saved.read(address, size)
    with pytest.raises(TypeError):
        saved.write(BASE, b"0")


def test_an_image_is_small_wherever_it_is_copied(machine: Machine, tmp_path: Path) -> None:
    """Without holes, in one file, and the same for the same memory."""
    image = machine.save(tmp_path, machine.domains())
    assert image.stat().st_size < 8192
    assert [path.name for path in tmp_path.iterdir()] == ["ram.img"]
    with zipfile.ZipFile(image) as archive:
        assert archive.testzip() is None
        addresses = [int(name, 0) for name in archive.namelist() if name != "about.json"]
        assert addresses == sorted(addresses)
    first = image.read_bytes()
    assert machine.save(tmp_path, machine.domains()).read_bytes() == first


def test_a_table_by_its_address(machine: Machine, tmp_path: Path, say: Say) -> None:
    image = machine.save(tmp_path, machine.domains())
    texts = render(machine.loose.dump())
    words = (image, "--format", "amdv1", "--top", hex(machine.loose.top), "--levels", machine.loose.expected.top + 1)
    assert say(*words) == (0, texts["page_table"], "")
    assert say(*words, "--file", "entries") == (0, texts["entries"], "")


def test_what_was_not_kept_is_not_empty(machine: Machine, tmp_path: Path, say: Say) -> None:
    """A table that nobody looked at is not in the image: that must not look like a table without entries."""
    image = machine.save(tmp_path)
    said = say(image, "--format", "amdv1", "--top", hex(machine.loose.top), "--levels", 3)
    assert said[:2] == (2, "")
    assert "the top of the table is not in the image" in said[2]


def test_bare_image(machine: Machine, tmp_path: Path, say: Say) -> None:
    image = tmp_path / "bare"
    image.write_bytes(machine.memory.ram)
    text = render(machine.two.dump())["entries"]
    where = ("--base", hex(BASE), "--file", "entries")
    strtab = ("--strtab-base", hex(machine.streams), "--strtab-cfg", 5)
    assert say(image, *where, *strtab, "--stream", "0x10") == (0, text, "")
    table = ("--format", "arm_64_lpae_s2", "--set", "ias=44", "--set", "oas=44", "--top", hex(machine.two.top))
    assert say(image, *where, *table) == (0, text, "")
    registers = tmp_path / "registers"
    held = {"0x80": hex(machine.streams), "0x88": "5"}
    registers.write_text(json.dumps({"ram": hex(BASE), "smmu": hex(SMMU), "registers": held}))
    assert say(image, "--registers", registers, "--stream", 16, "--file", "entries") == (0, text, "")


def test_parameters(tmp_path: Path, say: Say) -> None:
    config = configure("arm_64_lpae_s1", granule=65536, ias=48, oas=48, options=["hd"])
    memory = SyntheticMemory(SIZE)
    model = TableModel(config)
    model.map(1 << 47, 0x50000, 65536, RW)
    written = write_table(memory, model.snapshot())
    (tmp_path / "ram").write_bytes(memory.ram)
    words = ("--set", "granule=64K", "--set", "ias=48", "--set", "options=hd", "--format", "arm_64_lpae_s1")
    found = say(tmp_path / "ram", "--base", hex(BASE), *words, "--top", hex(written.top), "--file", "entries")
    assert found == (0, render(written.dump())["entries"], "")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--stream", "9"), "stream 9 has no page table"),
        (("--stream", "99", "--file", "ste"), "stream 99 has no ste"),
        ((), "--domain=NAME, --stream=SID or --all: streams that translate: 8, 16"),
        (("--format", "amdv1"), "--format goes with --top"),
        (("--format", "amdv1", "--top", "0x40000000", "--file", "ste"), "--format goes with --top"),
        (("--format", "amdv1", "--top", "0x1000"), "the top of the table is not in the image"),
        (("--format", "amdv1", "--top", "0", "--set", "granule"), "--set takes NAME=VALUE"),
        (("--format", "amdv1", "--top", "0", "--set", "vasz=x"), "--set vasz takes a number"),
        (("--format", "amdv1", "--top", "0", "--set", "levels=9"), "amdv1 has 2 to 6 levels"),
        (("--registers", "/nonexistent"), "/nonexistent: No such file or directory"),
    ],
)
def test_what_cannot_be_walked(machine: Machine, tmp_path: Path, say: Say, words: tuple[str, ...], error: str) -> None:
    status, text, said = say(machine.save(tmp_path), *words)
    assert (status, text) == (2, "")
    assert error in said


def test_images_that_are_none(tmp_path: Path, say: Say) -> None:
    image = tmp_path / "ram"
    assert "No such file" in say(image, "--base", 0)[2]
    image.write_bytes(b"")
    assert "cannot mmap an empty file" in say(image, "--base", 0)[2]
    image.write_bytes(bytes(4096))
    assert "--base must give" in say(image, "--all")[2]
    assert "no SMMU" in say(image, "--base", 0, "--all")[2]
    for text in ("[]", "{", "{}", '{"ram": 5}', '{"ram": "0", "registers": []}', '{"ram": "0", "domains": [{}]}'):
        (tmp_path / "ram.json").write_text(text)
        assert "ram.json: " in say(image, "--all")[2]


def test_archives_that_are_no_images(machine: Machine, tmp_path: Path, say: Say) -> None:
    image = machine.save(tmp_path)
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    assert "ram.img: File is not a zip file" in say(image, "--all")[2]
    with zipfile.ZipFile(image, "w") as archive:
        archive.writestr("hello.txt", "hello")
    assert "the archive has no about.json" in say(image, "--all")[2]
    with zipfile.ZipFile(image, "w") as archive:
        archive.writestr("about.json", "{}")
    assert "ram.img: KeyError: 'ram'" in say(image, "--all")[2]
