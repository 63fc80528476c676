# SPDX-License-Identifier: GPL-2.0-only
"""The steps of a case: one reader per kind, from YAML to the data of schema.py."""

from __future__ import annotations

import errno
from collections.abc import Callable

from pytest_iommu.core.model import Prot
from pytest_iommu.core.yaml_reader import Fields, Value, unique
from pytest_iommu.oracle.iommu import BLOCKED
from pytest_iommu.scenario.amount import Amount, parse_amount
from pytest_iommu.scenario.schema import (
    AttachStep,
    CheckStep,
    CreateStep,
    DestroyStep,
    DetachStep,
    DmaStep,
    ExpectStep,
    MapStep,
    PlugStep,
    ProbeStep,
    ReadHow,
    ReadStep,
    ReplaceStep,
    ResetStep,
    Step,
    StreamStep,
    UnmapStep,
)

FILES = ("info", "page_table", "entries", "stats")
ERRNOS = frozenset(errno.errorcode.values())
ACTIONS = ("exists", "mode", "open", "read", "write", "ioctl")
#: Config of an STE, as STE-2 words it, or that of the device's default domain
CONFIGS = ("ABORT", "BYPASS", "only S1_TRANS", "only S2_TRANS", "S1+S2_TRANS", "UNKNOWN", "default")
#: possible faults of a transfer (SMMU specification IHI 0070, 7.3)
EVENTS = ("F_TRANSLATION", "F_PERMISSION", "F_ADDR_SIZE", "F_ACCESS")
PROBE_BYTES, PROBE_LIMIT = 8, 2048


def amount(value: Value) -> Amount:
    """Parse an address or size."""
    try:
        return parse_amount(value.text())
    except ValueError as problem:
        raise value.error(str(problem)) from None


def errno_name(value: Value) -> str:
    """Parse the name of an errno."""
    name = value.text()
    if name not in ERRNOS:
        raise value.error(f"unknown errno {name!r}")
    return name


def prot(value: Value) -> Prot:
    """Parse letters of r w x c m p, or `-` for none."""
    text = value.text()
    try:
        return Prot.from_letters("" if text == "-" else text)
    except ValueError as problem:
        raise value.error(str(problem)) from None


def read_steps(value: Value, domains: frozenset[str]) -> tuple[Step, ...]:
    """Parse the list under ``do``; ``domains`` are the names of the case's domains."""
    steps: list[Step] = []
    for item in value.list():
        pairs = list(item.pairs())
        if len(pairs) != 1:
            raise item.error("a step is one word with its arguments, such as `map: {...}`")
        key, arguments = pairs[0]
        reader = READERS.get(key.text())
        if reader is None:
            raise key.error(f"unknown step {key.text()!r}; known: {', '.join(READERS)}")
        steps.append(reader(key.line, arguments, domains))
    return tuple(steps)


def _domain(fields: Fields, domains: frozenset[str], needed: bool = True) -> str | None:
    if "domain" in fields:
        return fields.need("domain").choice(sorted(domains), "domain")
    if len(domains) == 1:
        return next(iter(domains)) if needed else None
    if needed:
        raise fields.owner.error(f"{fields.what} needs `domain`, one of {', '.join(sorted(domains))}")
    return None


def domain_of(fields: Fields, domains: frozenset[str]) -> str:
    """Return the named domain, or the only one."""
    return _domain(fields, domains) or ""


def _failure(fields: Fields) -> str | None:
    return errno_name(fields.found["errno"]) if "errno" in fields else None


def _optional(fields: Fields, key: str) -> Amount | None:
    return amount(fields.found[key]) if key in fields else None


def _count(value: Value) -> int:
    return value.integer(1)


def _steps_of_a_count(fields: Fields, *keys: str) -> None:
    """Check that istep and pstep come with `count`: they are the distances between several mappings."""
    for key in keys:
        if key in fields and "count" not in fields:
            raise fields.found[key].error(f"{key} needs `count`")


def _map(line: int, value: Value, domains: frozenset[str], remap: bool = False) -> Step:
    keys = ("iova", "pa", "size", "prot", "leaf", "domain") + (() if remap else ("count", "istep", "pstep", "errno"))
    fields = value.fields(keys, "remap" if remap else "map")
    _steps_of_a_count(fields, "istep", "pstep")
    return MapStep(
        line,
        _domain(fields, domains),
        _failure(fields),
        iova=amount(fields.need("iova")),
        pa=amount(fields.need("pa")),
        size=amount(fields.need("size")),
        prot=prot(fields.need("prot")),
        leaf=_optional(fields, "leaf"),
        count=fields.get("count", _count, 1),
        istep=_optional(fields, "istep"),
        pstep=_optional(fields, "pstep"),
        remap=remap,
    )


def _remap(line: int, value: Value, domains: frozenset[str]) -> Step:
    return _map(line, value, domains, remap=True)


def _unmap(line: int, value: Value, domains: frozenset[str]) -> Step:
    fields = value.fields(("iova", "size", "leaf", "count", "istep", "domain", "errno"), "unmap")
    _steps_of_a_count(fields, "istep")
    return UnmapStep(
        line,
        _domain(fields, domains),
        _failure(fields),
        iova=amount(fields.need("iova")),
        size=amount(fields.need("size")),
        leaf=_optional(fields, "leaf"),
        count=fields.get("count", _count, 1),
        istep=_optional(fields, "istep"),
    )


def _create(line: int, value: Value, domains: frozenset[str]) -> Step:
    fields = value.fields(("domain", "errno"), "create")
    return CreateStep(line, _domain(fields, domains), _failure(fields))


def _destroy(line: int, value: Value, domains: frozenset[str]) -> Step:
    fields = value.fields(("domain", "errno"), "destroy")
    return DestroyStep(line, _domain(fields, domains), _failure(fields))


def _attach(line: int, value: Value, domains: frozenset[str]) -> Step:
    fields = value.fields(("domain", "devices", "errno"), "attach")
    devices = unique(fields.need("devices").items())
    return AttachStep(line, _domain(fields, domains), _failure(fields), devices)


def _detach(line: int, value: Value, domains: frozenset[str]) -> Step:
    fields = value.fields(("devices", "errno"), "detach")
    return DetachStep(line, None, _failure(fields), unique(fields.need("devices").items()))


def _check(line: int, value: Value, domains: frozenset[str]) -> Step:
    if any(key.text() == "stream" for key, _ in value.pairs()):
        return _stream(line, value, domains)
    fields = value.fields(("domain",), "check")
    return CheckStep(line, _domain(fields, domains, needed=False))


def _read(line: int, value: Value, domains: frozenset[str]) -> Step:
    fields = value.fields(("file", "how", "same", "domain"), "read")
    return ReadStep(
        line,
        _domain(fields, domains),
        file=fields.need("file").choice(FILES, "file"),
        how=_how(fields.need("how")),
        same=fields.get("same", Value.flag, True),
    )


def _how(value: Value) -> ReadHow:
    fields = value.fields(("chunk", "pread", "size", "lseek", "parallel"), "how")
    chunk, size = fields.get("chunk", _count, 0), fields.get("size", _count, 4096)
    kinds = [kind for kind in ("pread", "lseek", "parallel") if kind in fields]
    if len(kinds) > 1 or (not kinds and not chunk):
        raise value.error("a read needs exactly one of chunk, pread, lseek and parallel")
    takes = {"pread": "size", "lseek": "size", "parallel": "chunk"}.get(kinds[0], "") if kinds else "chunk"
    for key in ("chunk", "size"):
        if key in fields and key != takes:
            raise fields.found[key].error(f"{kinds[0] if kinds else 'chunk'} takes no {key}")
    if not kinds:
        return ReadHow("chunk", chunk)
    if kinds[0] == "parallel":
        return ReadHow("parallel", chunk, threads=fields.need("parallel").integer(1))
    offsets = tuple(item.integer() for item in fields.need(kinds[0]).items())
    return ReadHow(kinds[0], chunk, offsets, size)


def _expect(line: int, value: Value, domains: frozenset[str]) -> Step:
    fields = value.fields(("domain", "file", "path", *ACTIONS), "expect")
    actions = [action for action in ACTIONS if action in fields]
    if len(actions) != 1:
        raise value.error(f"expect needs exactly one of {', '.join(ACTIONS)}")
    action = actions[0]
    wanted = fields.found[action]
    want = wanted.text()
    if action == "exists":
        wanted.flag()
    elif action != "mode" and want != "ok":
        errno_name(wanted)
    elif action == "mode":
        try:
            want = f"{int(want, 8):04o}"
        except ValueError:
            raise wanted.error(f"mode is octal, not {want!r}") from None
    path = fields.get("path", Value.text, "") or None
    file = fields.get("file", lambda v: v.choice(FILES, "file"), "") or None
    if path is not None and (file is not None or "domain" in fields):
        raise value.error("expect takes either path, or domain and file")
    domain = None if path is not None else _domain(fields, domains)
    return ExpectStep(line, domain, action=action, want=want, file=file, path=path)


def _reset(line: int, value: Value, domains: frozenset[str]) -> Step:
    value.fields((), "reset")
    return ResetStep(line)


def _stream(line: int, value: Value, domains: frozenset[str]) -> Step:
    fields = value.fields(("stream", "config", "domain", "present"), "check")
    known = (*sorted(domains), "-")
    return StreamStep(
        line,
        device=fields.need("stream").text(),
        config=fields.get("config", lambda v: v.choice(CONFIGS, "Config"), "") or None,
        on=fields.get("domain", lambda v: v.choice(known, "domain"), "") or None,
        present=fields.get("present", Value.flag, True),
    )


def _replace(line: int, value: Value, domains: frozenset[str]) -> Step:
    fields = value.fields(("device", "domain", "errno"), "replace")
    return ReplaceStep(line, _domain(fields, domains), _failure(fields), device=fields.need("device").text())


def _plug(add: bool) -> Reader:
    def read(line: int, value: Value, domains: frozenset[str]) -> Step:
        fields = value.fields(("device",), "plug" if add else "unplug")
        return PlugStep(line, device=fields.need("device").text(), add=add)

    return read


def _dma(line: int, value: Value, domains: frozenset[str]) -> Step:
    fields = value.fields(("device", "read", "write", "size", "expect"), "dma")
    if ("read" in fields) is ("write" in fields):
        raise value.error("dma needs exactly one of read and write, with the IOVA")
    write = "write" in fields
    expect = fields.get("expect", lambda v: v.choice(("ok", *EVENTS), "outcome"), "ok")
    return DmaStep(
        line,
        device=fields.need("device").text(),
        write=write,
        iova=amount(fields.need("write" if write else "read")),
        size=fields.get("size", lambda v: amount(v).fixed, 64),
        event=None if expect == "ok" else expect,
    )


def _probe(line: int, value: Value, domains: frozenset[str]) -> Step:
    fields = value.fields(("device", "devices", "read", "write", "size", "expect", "to"), "probe")
    for one, other in (("read", "write"), ("device", "devices")):
        if (one in fields) is (other in fields):
            raise value.error(f"probe needs exactly one of {one} and {other}")
    write = "write" in fields
    expect = fields.get("expect", lambda v: v.choice(("ok", *EVENTS, BLOCKED), "outcome"), "ok")
    if expect == BLOCKED and not write:
        raise value.error("only a write shows that nothing happens: it leaves memory as it was")
    if "to" in fields and (write or expect != "ok"):
        raise fields.found["to"].error("`to` is for reads that succeed")
    if not write and expect == "ok" and "to" not in fields:
        raise value.error("a read that succeeds needs `to`, the IOVA to which the device writes what it has read")
    size = fields.get("size", lambda v: amount(v).fixed, PROBE_BYTES)
    if not 0 < size <= PROBE_LIMIT:
        raise fields.found["size"].error(f"a probe has 1 to {PROBE_LIMIT} bytes")
    return ProbeStep(
        line,
        devices=unique(fields.need("devices" if "devices" in fields else "device").items()),
        write=write,
        iovas=tuple(amount(one) for one in fields.need("write" if write else "read").items()),
        size=size,
        event=None if expect == "ok" else expect,
        to=_optional(fields, "to"),
    )


Reader = Callable[[int, Value, frozenset[str]], Step]
READERS: dict[str, Reader] = {
    "map": _map,
    "unmap": _unmap,
    "remap": _remap,
    "create": _create,
    "destroy": _destroy,
    "attach": _attach,
    "detach": _detach,
    "check": _check,
    "read": _read,
    "expect": _expect,
    "reset": _reset,
    "dma": _dma,
    "probe": _probe,
    "replace": _replace,
    "plug": _plug(True),
    "unplug": _plug(False),
}
