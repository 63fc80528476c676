# SPDX-License-Identifier: GPL-2.0-only
"""The streams of a guest: the SMMUv3's debugfs compared with the stream table in RAM and with the domains' info.

The expected streams are known from sysfs, which lists the devices of an IOMMU, and from the machine's description,
never from the files under test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from pytest_iommu.compare.side_by_side import stacked
from pytest_iommu.core.outcomes import CheckFailed, SetupError, Verdict
from pytest_iommu.dialects.dialect import DumpSyntaxError
from pytest_iommu.dialects.io_ptdump_small import parse_info
from pytest_iommu.dialects.smmuv3_debugfs import parse_cd, parse_ste
from pytest_iommu.formats.smmuv3 import WITH_STAGE1, decode_ste
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import DEBUGFS, settled
from pytest_iommu.oracle.stream_table import SmmuV3

if TYPE_CHECKING:
    from pytest_iommu.core.machines import Device
    from pytest_iommu.core.protocol import Op, Reply
    from pytest_iommu.images import Machine

ROOT = f"{DEBUGFS}/arm_smmu_v3"
SHOWN = 4
"""Maximum number of differing lines to show."""
DEFAULT = "default"
BYPASS = "BYPASS"


@dataclass(frozen=True, slots=True)
class StreamText:
    """The debugfs files of one stream: ``links`` are the symlinks in its directory with their targets."""

    sid: int
    ste: str
    cd: str
    links: Mapping[str, str]

    @property
    def config(self) -> str:
        """Config as worded in the file."""
        return _value(self.ste, "Config")

    @property
    def domain(self) -> str:
        """The id of the stream's domain or `-`: from its STE at stage 2, from its first CD at stage 1."""
        ste = _value(self.ste, "Domain").split(" ")[0]
        return ste if ste != "-" else _value(self.cd, "Domain").split(" ")[0] or "-"

    @property
    def without(self) -> str:
        """What the STE says in place of a domain, such as `identity`; empty where it names one."""
        return _value(self.ste, "Domain").partition("- ")[2]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The expected text for a device's streams: the words of Config, and the id of its domain (`-` for none).

    ``config`` may be DEFAULT: that of the device's default domain.
    """

    device: str
    config: str | None = None
    domain: str | None = None
    present: bool = True


class Streams:
    """All streams of one SMMUv3. ``run`` runs a batch; ``smmu`` is None if the guest's memory is not accessible."""

    def __init__(self, run: Callable[[Sequence[Op]], Reply], machine: Machine, smmu: SmmuV3 | None) -> None:
        if machine.smmu is None:
            raise SetupError(f"machine {machine.name} has no SMMUv3")
        self._run = run
        self._machine = machine
        self._smmu = smmu
        self.name = f"smmu3.0x{machine.smmu:016x}"
        self.path = f"{ROOT}/{self.name}/stream_table"
        self.files: dict[str, bytes] = {}

    def _device(self, name: str) -> Device:
        return self._machine.agent if name == "agent" else self._machine.device(name)

    def sid(self, name: str) -> int:
        """Return the first stream id of a device of the machine, or of the agent."""
        return self._device(name).sid

    def devices(self) -> dict[str, tuple[int, ...]]:
        """Return the devices of this SMMU by their Linux names, with the stream ids of each."""
        (listed,) = self._run([ops.list_directory(f"/sys/class/iommu/{self.name}/devices")]).results
        if not listed.ok:
            raise SetupError(f"cannot list /sys/class/iommu/{self.name}/devices: {ops.errno_name(listed.value)}")
        machine = self._machine
        known = {f"0000:{one.address}": one.sids for one in (*machine.devices, machine.agent)}
        # The node virtio_mmio@a003c00 is the platform device a003c00.virtio_mmio.
        known |= {".".join(reversed(node.split("@"))): sids for node, sids in machine.iommus.items()}
        names = [name.rstrip("@/") for name in ops.text_of(listed).splitlines()]
        return {name: known[name] if name in known else (requester_id(name),) for name in names}

    def default_config(self, name: str) -> str:
        """Return Config for a device on its default domain, by the domain's type in sysfs: BYPASS, or translating."""
        device = f"/sys/bus/pci/devices/0000:{self._device(name).address}"
        (kind,) = self._run([ops.read_file(f"{device}/iommu_group/type")]).results
        if not kind.ok:
            raise SetupError(f"cannot read {device}/iommu_group/type: {ops.errno_name(kind.value)}")
        if ops.text_of(kind).strip() == "identity":
            return BYPASS
        return "only S1_TRANS" if "s1" in self._machine.stages else "only S2_TRANS"

    def check(self, wanted: Sequence[Wanted] = ()) -> list[CheckFailed]:
        """Check every stream against memory and the domains' info, and those of ``wanted`` against their text."""
        owners = self.devices()
        listed = self._listing()
        problems = list(self._directories(owners, listed))
        wanted = [
            replace(want, config=self.default_config(want.device)) if want.config == DEFAULT else want
            for want in wanted
        ]
        texts = self.read(listed)
        ids = self._tops()
        for sid, text in texts.items():
            problems += self._stream(text, ids)
            names = {name for name, sids in owners.items() if sid in sids}
            problems += _links(text, names)
        for want in wanted:
            problems += self._wanted(want, texts)
        return problems

    def read(self, sids: Sequence[int]) -> dict[int, StreamText]:
        """Read the files of these streams. CheckFailed if a listed one cannot be read."""
        batch = [op for sid in sids for op in self._ops(sid)]
        results = self._run(batch).results if batch else ()
        found: dict[int, StreamText] = {}
        links: list[tuple[int, str]] = []
        for number, sid in enumerate(sids):
            ste, cd, names = results[3 * number : 3 * number + 3]
            self.files |= {f"ste.{sid}.txt": ste.data, f"cd.{sid}.txt": cd.data}
            for file, result in (("ste", ste), ("cd", cd), ("", names)):
                if not result.ok:
                    what = f"reading {self.path}/{sid}/{file} failed: {ops.errno_name(result.value)}"
                    raise CheckFailed(what, ("STE-6" if file == "cd" else "STE-1",), files=self.files)
            links += [(sid, name[:-1]) for name in ops.text_of(names).splitlines() if name.endswith("@")]
            found[sid] = StreamText(sid, ops.text_of(ste), ops.text_of(cd), {})
        targets = self._targets(links)
        return {
            sid: StreamText(sid, one.ste, one.cd, {name: targets[sid, name] for at, name in links if at == sid})
            for sid, one in found.items()
        }

    def _ops(self, sid: int) -> list[Op]:
        where = f"{self.path}/{sid}"
        return [ops.read_file(f"{where}/ste"), ops.read_file(f"{where}/cd"), ops.list_directory(where)]

    def _targets(self, links: Sequence[tuple[int, str]]) -> dict[tuple[int, str], str]:
        """Return the targets of the links: sysfs paths, resolved by their last component."""
        if not links:
            return {}
        batch: list[Op] = []
        for sid, name in links:
            batch += [ops.readlink(f"{self.path}/{sid}/{name}"), ops.stat(f"{self.path}/{sid}/{name}/")]
        results = self._run(batch).results
        found = {}
        for number, link in enumerate(links):
            target, there = results[2 * number : 2 * number + 2]
            found[link] = ops.text_of(target) if there.ok else f"{ops.text_of(target)} (dangling)"
        return found

    def _listing(self) -> list[int]:
        _, listed = self._run([settled(), ops.list_directory(self.path)]).results
        if not listed.ok:
            raise CheckFailed(f"cannot list {self.path}: {ops.errno_name(listed.value)}", ("STE-1",))
        names = [name.rstrip("/") for name in ops.text_of(listed).splitlines()]
        odd = [name for name in names if not name.isdecimal() or str(int(name)) != name]
        if odd:
            raise CheckFailed(f"{self.path} contains {', '.join(odd)}: not a decimal stream id", ("STE-1",))
        return sorted(int(name) for name in names)

    def _tops(self) -> dict[int, int]:
        """Return top of the table -> id, for every domain, from its info."""
        (listed,) = self._run([ops.list_directory(f"{DEBUGFS}/domains")]).results
        names = [name.rstrip("/") for name in ops.text_of(listed).splitlines()]
        if not names:
            return {}
        results = self._run([ops.read_file(f"{DEBUGFS}/domains/{name}/info") for name in names]).results
        tops: dict[int, int] = {}
        for name, result in zip(names, results, strict=True):
            errors: list[DumpSyntaxError] = []
            info = parse_info(ops.text_of(result), errors) if result.ok else None
            if info is not None:
                tops[info.top] = int(name)
        return tops

    def _directories(self, owners: Mapping[str, tuple[int, ...]], listed: Sequence[int]) -> Iterator[CheckFailed]:
        needed = {sid: name for name, sids in owners.items() for sid in sids}
        for sid in sorted(needed.keys() - set(listed)):
            rule = "STE-5" if len(set(owners[needed[sid]])) > 1 else "STE-1"
            yield CheckFailed(f"stream {sid} of {needed[sid]} has no directory in {self.path}", (rule,))
        for sid in sorted(set(listed) - needed.keys()):
            yield CheckFailed(f"{self.path}/{sid} exists, but no device of {self.name} has this stream", ("STE-1",))

    def _stream(self, text: StreamText, ids: Mapping[int, int]) -> Iterator[CheckFailed]:
        try:
            parse_ste(text.ste)
            parse_cd(text.cd)
        except DumpSyntaxError as error:
            what = f"stream {text.sid}: {error}"
            yield CheckFailed(what, (error.rule,), verdict=Verdict.DUMP)
            return
        if self._smmu is None:
            return
        held = self._smmu.texts(text.sid, ids)
        if not held:
            yield CheckFailed(f"stream {text.sid} has files, but no entry in the stream table", ("STE-1",))
        for file, want in held.items():
            have = text.ste if file == "ste" else text.cd
            if have != want:
                self.files[f"{file}.{text.sid}.ram.txt"] = want.encode()
                yield self._stays_valid(text, want) or differs(file, text.sid, have, want)

    def _stays_valid(self, text: StreamText, held: str) -> CheckFailed | None:
        """Return the failure where a dump shows, truly, a descriptor that the stream's entry no longer leads to."""
        assert self._smmu is not None
        last = self._smmu.last_cd(text.sid)
        if held or last is None or not last.valid or [cd.words for cd in parse_cd(text.cd)] != [last.words]:
            return None
        what = f"the CD of stream {text.sid} is still valid, but its STE is {text.config}:"
        shown = f"{what}\n{text.cd.rstrip()}"
        return CheckFailed(shown, ("HW-5",), verdict=Verdict.ENTRIES, table=SmmuV3.root, because="memory is as dumped")

    def _wanted(self, want: Wanted, texts: Mapping[int, StreamText]) -> Iterator[CheckFailed]:
        for sid in dict.fromkeys(self._device(want.device).sids):
            if (sid in texts) is not want.present:
                is_there = "exists" if sid in texts else "is missing"
                yield CheckFailed(f"stream {sid} of {want.device} {is_there}", ("STE-1",))
                continue
            if sid not in texts:
                continue
            one = texts[sid]
            # Without a domain that it is attached to, the entry has to say that an earlier one left.
            attached = want.domain not in (None, "-")
            if want.config is not None and one.config != want.config:
                what = f"Config is {one.config}, expected {want.config}"
                rule = "HW-1" if attached else "HW-5"
                yield self._attached(f"stream {sid} of {want.device}: {what}", rule, "STE-4")
            if want.domain is not None and one.domain != want.domain:
                what = f"Domain is {one.domain}, but the device is attached to {want.domain}"
                rule = ("HW-2" if one.config in WITH_STAGE1 else "HW-1") if attached else "HW-5"
                yield self._attached(f"stream {sid} of {want.device}: {what}", rule, "STE-3", "STE-4")

    def _attached(self, what: str, rule: str, *dumps: str) -> CheckFailed:
        """Return the failure of a stream with another attachment; that memory agrees with the dump was checked.

        So the kernel did not write what it should, which breaks ``rule``; those of the dump follow.
        """
        if self._smmu is None:
            return CheckFailed(what, dumps[:1], dumps[1:], verdict=Verdict.UNDECIDED)
        return CheckFailed(
            what, (rule,), dumps, verdict=Verdict.ENTRIES, table=SmmuV3.root, because="memory is as dumped"
        )


def requester_id(name: str) -> int:
    """Return a device's PCI requester id by its name ``0000:00:01.0``: its stream id if nothing maps it."""
    bus, _, rest = name.partition(":")[2].partition(":")
    slot, _, function = rest.partition(".")
    return int(bus, 16) << 8 | int(slot, 16) << 3 | int(function, 16)


def _value(text: str, key: str) -> str:
    head = f"  {key}: "
    return next((line.removeprefix(head) for line in text.splitlines() if line.startswith(head)), "")


def _links(text: StreamText, names: set[str]) -> Iterator[CheckFailed]:
    if text.links.keys() != names:
        have, want = ", ".join(sorted(text.links)) or "none", ", ".join(sorted(names)) or "none"
        yield CheckFailed(f"stream {text.sid} has symlinks to {have}, expected its devices: {want}", ("STE-1",))
    for name, target in text.links.items():
        if target.rpartition("/")[2] != name:
            yield CheckFailed(f"stream {text.sid}: the symlink {name} leads to {target}", ("STE-1",))


def _rule(file: str, line: str) -> str:
    if line.strip().startswith("Domain:"):
        return "STE-3"
    return "STE-6" if file == "cd" and line.startswith("CD for") else "STE-2"


def _of_another_time(have: str, want: str) -> bool:
    """Whether an STE is valid but differs from the one in memory, so that it may be an earlier one."""
    one, now = parse_ste(have), parse_ste(want)
    sound = one.valid and one == replace(decode_ste(one.sid, one.words), domain=one.domain, without=one.without)
    return sound and (one.config, one.s1_context_ptr, one.s2ttb) != (now.config, now.s1_context_ptr, now.s2ttb)


def differs(file: str, sid: int, have: str, want: str) -> CheckFailed:
    """Classify the difference: STE-4 for an earlier STE, otherwise the rule of the first line that differs."""
    lines = [pair for pair in zip_longest(have.splitlines(), want.splitlines()) if pair[0] != pair[1]]
    what, rule, also = f"{file} of stream {sid} does not match its words in RAM", "STE-2", ""
    if file == "ste" and _of_another_time(have, want):
        what, rule, also = f"ste of stream {sid} is valid, but is not the one in RAM", "STE-4", "STE-2"
    elif None in lines[0]:
        rule = "STE-6" if file == "cd" else "STE-2"
    else:
        rule = _rule(file, lines[0][1])
    if rule == "STE-3":
        what = f"{file} of stream {sid} does not name the domain whose top is in its words in RAM"
    shown = [line for dumped, held in lines[:SHOWN] for line in stacked({"dumped": dumped, "in RAM": held})]
    if len(lines) > SHOWN:
        shown.append(f"... and {len(lines) - SHOWN} more lines that differ")
    text, related = "\n".join([f"{what}:", *shown]), (also,) if also else ()
    return CheckFailed(text, (rule,), related, verdict=Verdict.DUMP, because="memory holds something else")
