# SPDX-License-Identifier: GPL-2.0-only
"""``pytest-iommu walk``: the dump of a page table, or of a stream, from a saved image of a guest's memory."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from pytest_iommu import formats
from pytest_iommu.model import TableConfig, parse_size
from pytest_iommu.oracle.guest_memory import FILES, walk
from pytest_iommu.oracle.saved_memory import SavedMemory, SavedMemoryError, open_image
from pytest_iommu.oracle.stream_table import STRTAB_BASE, STRTAB_BASE_CFG, SmmuV3
from pytest_iommu.outcomes import SetupError
from pytest_iommu.targets.protocol import OutsideMemory

STREAM_FILES = ("ste", "cd")
EPILOG = """\
An image is RAM, byte for byte. One that oracle.saved_memory.save_image() made has its registers beside it, which are
found by name; any other needs --base, and --strtab-base and --strtab-cfg, or --format and --top:

  pytest-iommu walk ram.img --stream 8
  pytest-iommu walk ram.img --base 0x40000000 --strtab-base 0x41200000 --strtab-cfg 0x10210 --all --file ste
  pytest-iommu walk ram.img --base 0x40000000 --format amdv1 --top 0x41000000 --levels 4 --file entries
  pytest-iommu walk ram.img --base 0x40000000 --format arm_64_lpae_s1 --set granule=16K --set ias=47 --top 0x41000000
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``walk``."""
    about = "print the dump from a saved image of memory"
    parser = commands.add_parser(
        "walk", help=about, description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", type=Path, help="RAM, byte for byte")
    parser.add_argument("--file", choices=(*FILES, *STREAM_FILES), default=FILES[0], help="default: %(default)s")
    parser.add_argument("--base", type=number, metavar="ADDR", help="where RAM begins")
    which = parser.add_argument_group("what to print").add_mutually_exclusive_group()
    which.add_argument("--stream", type=number, metavar="SID", help="of this stream; without it, of the only one")
    which.add_argument("--all", action="store_true", help="of every stream that translates, each under its number")
    streams = parser.add_argument_group("streams")
    streams.add_argument("--registers", type=Path, metavar="JSON", help="what the SMMU held; default: IMAGE.json")
    streams.add_argument("--strtab-base", type=number, metavar="VALUE", help="of SMMU_STRTAB_BASE, instead of a file")
    streams.add_argument("--strtab-cfg", type=number, metavar="VALUE", help="of SMMU_STRTAB_BASE_CFG")
    streams.add_argument("--ssid", type=number, default=0, metavar="SSID", help="substream, for page tables")
    table = parser.add_argument_group("a table, without streams")
    table.add_argument("--format", choices=formats.names(), metavar="NAME", help=", ".join(formats.names()))
    table.add_argument("--top", type=number, metavar="ADDR", help="where its top is")
    table.add_argument("--levels", type=number, metavar="N", help="in use now, where the top grows")
    table.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="its parameters; options=a,b")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the dump; the exit status. SetupError for what cannot be walked."""
    try:
        memory = open_image(arguments.image, arguments.registers, arguments.base)
        if arguments.format is not None:
            print(_of_table(arguments, memory), end="")
            return 0
        for text in _of_streams(arguments, memory):
            print(text, end="")
    except (SavedMemoryError, formats.ConfigError) as error:
        raise SetupError(str(error)) from None
    except OutsideMemory as error:
        raise SetupError(f"the top of the table is not in the image: {error}") from None
    return 0


def _of_table(arguments: argparse.Namespace, memory: SavedMemory) -> str:
    if arguments.top is None or arguments.file not in FILES:
        raise SetupError(f"--format goes with --top=ADDR and --file={' or '.join(FILES)}")
    config = formats.configure(arguments.format, **dict(_parameter(word) for word in arguments.set))
    return walk(memory, config, arguments.top, arguments.levels).text(arguments.file)


def _of_streams(arguments: argparse.Namespace, memory: SavedMemory) -> Iterator[str]:
    memory, smmu = _smmu(arguments, memory)
    if arguments.all:
        for sid in smmu.sids():
            text = _of_stream(arguments, memory, smmu, sid)
            if text is not None:
                yield f"# stream {sid}\n{text}"
        return
    sid = arguments.stream
    if sid is None:
        sids = list(smmu.sids())
        if len(sids) != 1:
            found = ", ".join(str(sid) for sid in sids) or "none"
            raise SetupError(f"--stream=SID or --all: streams that translate: {found}")
        sid = sids[0]
    text = _of_stream(arguments, memory, smmu, sid)
    if text is None:
        raise SetupError(f"stream {sid} has no {'page table' if arguments.file in FILES else arguments.file}")
    yield text


def _of_stream(arguments: argparse.Namespace, memory: SavedMemory, smmu: SmmuV3, sid: int) -> str | None:
    if arguments.file in STREAM_FILES:
        # ids of domains are the kernel's, nobody else knows them
        return smmu.texts(sid, {}).get(arguments.file)
    found: tuple[TableConfig, int] | None = smmu.table(sid, arguments.ssid)
    return None if found is None else walk(memory, *found).text(arguments.file)


def _smmu(arguments: argparse.Namespace, memory: SavedMemory) -> tuple[SavedMemory, SmmuV3]:
    given = {STRTAB_BASE[0]: arguments.strtab_base, STRTAB_BASE_CFG[0]: arguments.strtab_cfg}
    if None not in given.values():
        memory = SavedMemory(arguments.image, memory.base, given, 0)
    if memory.smmu is None:
        raise SetupError("no SMMU: --registers=JSON, --strtab-base and --strtab-cfg, or a table by --format and --top")
    return memory, SmmuV3(memory, memory.smmu)


def number(text: str) -> int:
    """A number as C writes it."""
    return int(text, 0)


def _parameter(word: str) -> tuple[str, object]:
    name, equals, value = word.partition("=")
    if not equals:
        raise SetupError(f"--set takes NAME=VALUE, not {word!r}")
    if name == "options":
        return name, [option for option in value.split(",") if option]
    try:
        return name, parse_size(value)
    except ValueError:
        raise SetupError(f"--set {name} takes a number, not {value!r}") from None
