# SPDX-License-Identifier: GPL-2.0-only
"""``pytest-iommu walk``: the dump of a page table, or of a stream, from a saved image of a guest's memory.

Without options it is the domain by which the test failed, or the only one that there is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from pytest_iommu import formats
from pytest_iommu.core.model import TableConfig, parse_size
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.paths import user_path
from pytest_iommu.core.protocol import OutsideMemory
from pytest_iommu.oracle.guest_memory import FILES, walk
from pytest_iommu.oracle.saved_memory import SavedDomain, SavedMemory, SavedMemoryError, open_image
from pytest_iommu.oracle.stream_table import STRTAB_BASE, STRTAB_BASE_CFG, SmmuV3

STREAM_FILES = ("ste", "cd")
EPILOG = """\
The image is ram.img of a test's artefacts, which has domains, tables and registers in it. Any other is RAM byte for
byte and needs --base, and --strtab-base and --strtab-cfg, or --format and --top:

  pytest-iommu walk ram.img
  pytest-iommu walk ram.img --domain d --file entries
  pytest-iommu walk ram.img --stream 8
  pytest-iommu walk ram.img --base 0x40000000 --strtab-base 0x41200000 --strtab-cfg 0x10210 --all --file ste
  pytest-iommu walk ram.img --base 0x40000000 --format amdv1 --top 0x41000000 --levels 4 --file entries
  pytest-iommu walk ram.img --base 0x40000000 --format arm_64_lpae_s1 --set granule=16K --set ias=47 --top 0x41000000
"""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``walk``."""
    about = "Print the dump of a page table from a saved memory image."
    parser = commands.add_parser(
        "walk", help=about, description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", type=user_path, help="ram.img of a test's artefacts, or RAM byte for byte")
    parser.add_argument("--file", choices=(*FILES, *STREAM_FILES), default=FILES[0], help="default: %(default)s")
    parser.add_argument("--base", type=number, metavar="ADDR", help="where RAM begins")
    which = parser.add_argument_group("what to print").add_mutually_exclusive_group()
    which.add_argument("--domain", metavar="NAME", help="of the domain that the test calls so")
    which.add_argument("--stream", type=number, metavar="SID", help="of this stream")
    which.add_argument(
        "--all", action="store_true", help="of every stream that translates, and of every domain without one"
    )
    streams = parser.add_argument_group("streams")
    streams.add_argument(
        "--registers", type=user_path, metavar="JSON", help="what the SMMU held; default: in the image, or IMAGE.json"
    )
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
    """Print the dump; the exit status. SetupError if the image cannot be walked."""
    try:
        memory = open_image(arguments.image, arguments.registers, arguments.base)
        if arguments.format is not None:
            print(_of_table(arguments, memory), end="")
            return 0
        for text in _chosen(arguments, memory):
            print(text, end="")
    except (SavedMemoryError, formats.ConfigError) as error:
        raise SetupError(str(error)) from None
    except OutsideMemory as error:
        raise SetupError(f"the top of the table is not in the image: {error}") from None
    return 0


def _of_table(arguments: argparse.Namespace, memory: SavedMemory) -> str:
    if arguments.top is None or arguments.file not in FILES:
        raise SetupError(f"--format goes with --top=ADDR and --file={' or '.join(FILES)}")
    config = formats.configure(arguments.format, **dict(parameter(word) for word in arguments.set))
    return walk(memory, config, arguments.top, arguments.levels).text(arguments.file)


def _chosen(arguments: argparse.Namespace, memory: SavedMemory) -> Iterator[str]:
    """The texts that were asked for, or the one that can only be meant."""
    if arguments.all:
        yield from _all(arguments, memory)
        return
    domain = _domain(arguments, memory)
    if domain is not None and arguments.file in FILES:
        yield walk(memory, domain.config, domain.top, domain.levels).text(arguments.file)
        return
    memory, smmu = _smmu(arguments, memory)
    sid = arguments.stream
    if sid is None:
        sids = list(smmu.sids()) if domain is None else list(domain.streams)
        if len(sids) != 1:
            raise SetupError(f"--domain=NAME, --stream=SID or --all: {_what_there_is(memory, smmu)}")
        (sid,) = sids
    text = _of_stream(arguments, memory, smmu, sid)
    if text is None:
        raise SetupError(f"stream {sid} has no {'page table' if arguments.file in FILES else arguments.file}")
    yield text


def _domain(arguments: argparse.Namespace, memory: SavedMemory) -> SavedDomain | None:
    """The selected domain; None if a stream was selected or the image names no domain."""
    if arguments.domain is not None:
        if arguments.domain not in memory.domains:
            raise SetupError(f"no domain {arguments.domain} in the image; there are: {_names(memory)}")
        return memory.domains[arguments.domain]
    if arguments.stream is not None:
        return None
    every = list(memory.domains.values())
    meant = [domain for domain in every if domain.failed] or every
    if len(meant) != 1:
        return None
    print(f"# domain {meant[0].name}, {meant[0].config.format}, top 0x{meant[0].top:016x}", file=sys.stderr)
    return meant[0]


def _all(arguments: argparse.Namespace, memory: SavedMemory) -> Iterator[str]:
    """Every stream that translates, and the domains that none of them is on."""
    seen = set()
    if memory.smmu is not None or arguments.strtab_base is not None or not memory.domains:
        memory, smmu = _smmu(arguments, memory)
        for sid in smmu.sids():
            text = _of_stream(arguments, memory, smmu, sid)
            seen.add(sid)
            if text is not None:
                yield f"# stream {sid}\n{text}"
    for domain in memory.domains.values():
        if arguments.file in FILES and not seen & set(domain.streams):
            text = walk(memory, domain.config, domain.top, domain.levels).text(arguments.file)
            yield f"# domain {domain.name}\n{text}"


def _names(memory: SavedMemory) -> str:
    return ", ".join(memory.domains) or "none"


def _what_there_is(memory: SavedMemory, smmu: SmmuV3) -> str:
    sids = ", ".join(str(sid) for sid in smmu.sids()) or "none"
    domains = f"domains: {_names(memory)}; " if memory.domains else ""
    return f"{domains}streams that translate: {sids}"


def _of_stream(arguments: argparse.Namespace, memory: SavedMemory, smmu: SmmuV3, sid: int) -> str | None:
    if arguments.file in STREAM_FILES:
        # only the kernel knows the ids of its domains
        return smmu.texts(sid, {}).get(arguments.file)
    found: tuple[TableConfig, int] | None = smmu.table(sid, arguments.ssid)
    return None if found is None else walk(memory, *found).text(arguments.file)


def _smmu(arguments: argparse.Namespace, memory: SavedMemory) -> tuple[SavedMemory, SmmuV3]:
    given = {STRTAB_BASE[0]: arguments.strtab_base, STRTAB_BASE_CFG[0]: arguments.strtab_cfg}
    if None not in given.values():
        memory = memory.with_registers(given)
    if memory.smmu is None:
        raise SetupError("no SMMU: --registers=JSON, --strtab-base and --strtab-cfg, or a table by --format and --top")
    return memory, SmmuV3(memory, memory.smmu)


def number(text: str) -> int:
    """A number as C writes it."""
    return int(text, 0)


def parameter(word: str) -> tuple[str, object]:
    """Name and value of ``--set NAME=VALUE``. SetupError for anything else."""
    name, equals, value = word.partition("=")
    if not equals:
        raise SetupError(f"--set takes NAME=VALUE, not {word!r}")
    if name == "options":
        return name, [option for option in value.split(",") if option]
    try:
        return name, parse_size(value)
    except ValueError:
        raise SetupError(f"--set {name} takes a number, not {value!r}") from None
