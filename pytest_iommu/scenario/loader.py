# SPDX-License-Identifier: GPL-2.0-only
"""Load a scenario file as a Suite: the cases, and their variants expanded into instances."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from pytest_iommu.core import flavours
from pytest_iommu.core.model import Range
from pytest_iommu.core.rules import RULES
from pytest_iommu.core.yaml_reader import Fields, ScenarioError, Value, read_file, unique
from pytest_iommu.dialects.dialect import DumpSyntaxError
from pytest_iommu.dialects.io_ptdump import parse_ranges
from pytest_iommu.scenario.racing import read_race, read_storm, read_stretches
from pytest_iommu.scenario.schema import (
    Case,
    CreateStep,
    DomainDef,
    HandLine,
    Instance,
    Needs,
    Repeat,
    Suite,
    TableSpec,
)
from pytest_iommu.scenario.steps import read_steps
from pytest_iommu.scenario.variants import (
    DEFAULT_MACHINE,
    DEVICES,
    GRANULES,
    MACHINES,
    STAGES,
    default_table,
    expand,
    read_table,
)

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,79}")
_DOMAIN = re.compile(r"[a-z0-9_-]{1,31}")
_RACE_KEYS = ("race", "storm", "stays", "never")
_DEFAULT_KEYS = ("machines", "stages", "formats", "tables", "granule", "timeout", "kernel")
_OWN_KEYS = ("name", "rules", "do", "dump", "domains", "needs", "fresh", "repeat", "table")
_CASE_KEYS = (*_OWN_KEYS, *_DEFAULT_KEYS, *_RACE_KEYS)


def load(path: Path) -> Suite:
    """Read and check a file. ScenarioError (``file:line: message``) for the first mistake in it.

    An unchanged file is read only once: pytest also collects the files from which the kselftest's cases are compiled.
    """
    version = None
    with suppress(OSError):  # read_file() reports what is wrong
        stat = path.stat()
        version = stat.st_mtime_ns, stat.st_size
    return _load(path, version)


@lru_cache(maxsize=64)
def _load(path: Path, version: tuple[int, int] | None) -> Suite:
    """load() for a file with that modification time and size. Exceptions are not cached."""
    del version
    top = read_file(path).fields(("suite", "defaults", "cases"), "a scenario file")
    name = _name(top.need("suite"))
    none = Fields(top.owner, {}, "defaults")
    defaults = top.get("defaults", lambda value: value.fields(_DEFAULT_KEYS, "defaults"), none)
    cases: list[Case] = []
    lines: dict[str, int] = {}
    for item in top.need("cases").list():
        case = _case(path, item, defaults)
        if case.name in lines:
            raise item.error(f"case {case.name!r} already exists, on line {lines[case.name]}")
        lines[case.name] = case.line
        cases.append(case)
    instances: list[Instance] = []
    for case in cases:
        instances += expand(case)
    return Suite(path, name, tuple(cases), tuple(instances))


def _name(value: Value) -> str:
    text = value.text()
    if not _NAME.fullmatch(text):
        raise value.error(f"a name consists of a-z 0-9 - and _, not {text!r}")
    return text


def _case(path: Path, item: Value, defaults: Fields) -> Case:
    fields = item.fields(_CASE_KEYS, "a case")
    name = _name(fields.need("name"))
    rules = unique(fields.need("rules").items())
    for value in fields.need("rules").items():
        value.choice(RULES, "rule")
    if not rules:
        raise fields.need("rules").error("a case needs at least one rule")
    needs = fields.get("needs", _needs, Needs())
    domains = _domains(fields)
    names = frozenset(domain.name for domain in domains)
    steps = read_steps(fields.need("do"), names) if "do" in fields else ()
    created = {step.domain for step in steps if isinstance(step, CreateStep)}
    races = [key for key in ("race", "storm") if key in fields]
    if len(races) > 1:
        raise item.error(f"case {name!r} has both a race and a storm, but can have only one")
    for key in ("stays", "never"):
        if key in fields and races != ["race"]:
            raise fields.found[key].error(f"`{key}` requires a race, but the case has none")
    if not steps and not races and "dump" not in fields and created == set():
        raise item.error(f"case {name!r} does nothing: it has no `do`")
    own = any(key in fields for key in ("stages", "formats", "table", "tables"))
    source = fields if own else defaults
    stages = source.words("stages", STAGES, "stage")
    tables = [default_table(value) for value in source.found["formats"].items()] if "formats" in source else []
    tables += [read_table(value) for value in source.found["tables"].list()] if "tables" in source else []
    tables += [read_table(fields.found["table"])] if "table" in fields else []
    if not stages and not tables and not all(domain.stage or domain.table for domain in domains):
        raise item.error(f"case {name!r} has no stage, format or table to run on")
    hardware = bool(stages) or any(domain.stage for domain in domains)
    if "granule" in fields and not hardware:
        raise fields.found["granule"].error("granule applies to hardware domains, but the case has none")
    return Case(
        path,
        item.line,
        name,
        rules,
        steps,
        domains,
        _machines(fields, defaults, needs),
        stages,
        tuple(tables),
        _either(fields, defaults, "granule").get("granule", _granule, 4096),
        needs,
        _either(fields, defaults, "kernel").get("kernel", _flavour, "plain"),
        fields.get("fresh", Value.flag, False),
        _either(fields, defaults, "timeout").get("timeout", Value.seconds, 10.0),
        fields.get("repeat", _repeat, Repeat()),
        _hand(fields.found["dump"], names) if "dump" in fields else (),
        fields.get("race", lambda value: read_race(value, names), None),
        fields.get("storm", lambda value: read_storm(value, names), None),
        fields.get("stays", read_stretches, ()),
        fields.get("never", read_stretches, ()),
        named=needs.machine is not None or "machines" in _either(fields, defaults, "machines"),
    )


def _either(fields: Fields, defaults: Fields, key: str) -> Fields:
    return fields if key in fields else defaults


def _granule(value: Value) -> int:
    return GRANULES[value.choice(GRANULES, "granule")]


def _flavour(value: Value) -> str:
    return value.choice(flavours.names(), "kernel flavour")


def _repeat(value: Value) -> Repeat:
    if not value.is_mapping():
        return Repeat(value.integer(1))
    fields = value.fields(("times", "fresh"), "repeat")
    return Repeat(fields.need("times").integer(1), fields.get("fresh", Value.flag, False))


def _needs(value: Value) -> Needs:
    fields = value.fields(("devices", "dialect", "machine", "config"), "needs")
    if not fields.found:
        raise value.error("needs must not be empty")
    for symbol in fields.found["config"].items() if "config" in fields else ():
        if symbol.text().startswith("CONFIG_"):
            raise symbol.error(f"write a configuration symbol without CONFIG_, not as {symbol.text()!r}")
    return Needs(
        fields.words("devices", dict.fromkeys(name for names in DEVICES.values() for name in names), "device"),
        fields.get("dialect", Value.text, "") or None,
        fields.get("machine", lambda found: found.choice(MACHINES, "machine"), "") or None,
        fields.words("config"),
    )


def _machines(fields: Fields, defaults: Fields, needs: Needs) -> tuple[str, ...]:
    """Return the machines of a case: those it names, else the one it needs, else the default machines."""
    named = _either(fields, defaults, "machines").words("machines", MACHINES, "machine")
    if needs.machine is None:
        return named or (DEFAULT_MACHINE,)
    if named and needs.machine not in named:
        raise fields.found["needs"].error(f"needs machine {needs.machine}, but runs only on {', '.join(named)}")
    return (needs.machine,)


def _domains(fields: Fields) -> tuple[DomainDef, ...]:
    if "domains" not in fields:
        return (DomainDef(fields.owner.line, "d"),)
    found: list[DomainDef] = []
    for key, value in fields.found["domains"].pairs():
        if not _DOMAIN.fullmatch(key.text()):
            raise key.error(f"a domain's name consists of 1 to 31 of a-z 0-9 - and _, not {key.text()!r}")
        inner = value.fields(("stage", "table", "format", "device"), f"domain {key.text()}")
        kinds = [kind for kind in ("stage", "table", "format") if kind in inner]
        if len(kinds) > 1:
            raise value.error("a domain needs exactly one of stage, table and format")
        table: TableSpec | None = None
        if "table" in inner:
            table = read_table(inner.found["table"])
        elif "format" in inner:
            table = default_table(inner.found["format"])
        if table is not None and "device" in inner:
            raise inner.found["device"].error("a software table has no device")
        stage = inner.found["stage"].choice(STAGES, "stage") if "stage" in inner else None
        found.append(DomainDef(key.line, key.text(), stage, table, inner.get("device", Value.text, "edu0")))
    if not found:
        raise fields.found["domains"].error("at least one domain is required")
    return tuple(found)


def _hand(value: Value, domains: frozenset[str]) -> tuple[tuple[str | None, tuple[HandLine, ...]], ...]:
    if not value.is_mapping():
        if len(domains) > 1:
            raise value.error(f"`dump` needs the name of a domain, one of {', '.join(sorted(domains))}")
        return ((next(iter(domains)), _hand_lines(value)),)
    found: list[tuple[str | None, tuple[HandLine, ...]]] = []
    for key, lines in value.pairs():
        found.append((key.choice(sorted(domains), "domain"), _hand_lines(lines)))
    return tuple(found)


def _hand_lines(value: Value) -> tuple[HandLine, ...]:
    text = "" if value.node.value == "" else value.text()
    first = value.line + (1 if getattr(value.node, "style", None) in ("|", ">") else 0)
    found: list[HandLine] = []
    for offset, line in enumerate(text.splitlines()):
        words = line.split()
        if not words:
            continue
        number = first + offset
        flags = words[-1] != "*"
        found.append(HandLine(number, _hand_range(value, number, words if flags else words[:-1]), flags))
    return tuple(found)


def _hand_range(value: Value, number: int, words: list[str]) -> Range:
    if len(words) < 6:
        raise ScenarioError(value.path, number, "expected a line `first-last OA size level leaf prot flags`")
    bounds, oa, size, level, leaf, prot, *flags = words
    errors: list[DumpSyntaxError] = []
    normal = " ".join((bounds, oa, f"{size:>8}", level, f"{leaf:>8}", prot, *flags))
    rows = list(parse_ranges(f"{normal}\n", errors))
    if errors:
        raise ScenarioError(value.path, number, errors[0].why)
    return rows[0]
