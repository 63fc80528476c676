# SPDX-License-Identifier: GPL-2.0-only
"""The keys of a case with readers in the middle of changes: race, storm, stays, never."""

from __future__ import annotations

import yaml

from pytest_iommu.core.yaml_reader import Fields, Value
from pytest_iommu.scenario.race_words import COPY, INSIDE, POINTS, PREEMPTED, TABLE, TIMEOUT, WAYS
from pytest_iommu.scenario.schema import (
    CheckStep,
    DmaStep,
    ExpectStep,
    HoldSpec,
    MapStep,
    Meanwhile,
    PlugStep,
    ProbeStep,
    RaceSpec,
    ReadStep,
    ResetStep,
    Step,
    StormSpec,
    StreamStep,
    Stretch,
    UnmapStep,
)
from pytest_iommu.scenario.steps import FILES, amount, domain_of, read_steps

WALKED = tuple(file for file in FILES if file != "info")
#: steps without a command, which cannot block
_NO_COMMAND = (CheckStep, ReadStep, ExpectStep, StreamStep, DmaStep, ProbeStep, PlugStep)


def read_race(value: Value, domains: frozenset[str]) -> RaceSpec:
    """Parse ``race: {reader: {...}, hold: {...}, meanwhile: [...]}``."""
    fields = value.fields(("domain", "reader", "hold", "meanwhile"), "race")
    none = Fields(value, {}, "reader")
    reader = fields.get("reader", lambda v: v.fields(("file", "size", "cpu"), "reader"), none)
    if reader.get("cpu", Value.integer, 1) != 1:
        raise reader.need("cpu").error("a reader is held on processor 1, which nothing else uses")
    steps = tuple(step for item in fields.need("meanwhile").list() for step in _meanwhile(item, domains))
    hold = _hold(fields.need("hold"))
    for step in steps:
        if step.step is None and step.blocked is not (hold.at in INSIDE):
            raise value.error(f"line {step.line}: only a reader inside the walk blocks a grace period")
    return RaceSpec(
        value.line,
        domain_of(fields, domains),
        reader.get("file", lambda v: v.choice(WALKED, "file that is a walk"), "page_table"),
        reader.get("size", lambda v: v.integer(1), 0),
        hold,
        steps,
    )


def _hold(value: Value) -> HoldSpec:
    fields = value.fields(("at", "level", "iova", "timeout", "how"), "hold")
    at = fields.need("at").choice(POINTS, "point")
    if (at == COPY) is ("iova" in fields):
        raise value.error("copying takes no iova" if at == COPY else f"{at} needs `iova`")
    if "level" in fields and at != TABLE:
        raise fields.need("level").error(f"only {TABLE} takes a level: the level of a leaf is given")
    if "how" in fields and at == COPY:
        raise fields.need("how").error("a copying reader is held by its buffer, so it takes no `how`")
    return HoldSpec(
        value.line,
        at,
        fields.get("iova", amount, None),
        fields.get("level", lambda v: v.integer(1), None),
        fields.get("how", lambda v: v.choice(WAYS, "way to hold"), PREEMPTED),
        fields.get("timeout", Value.seconds, TIMEOUT),
    )


def _meanwhile(item: Value, domains: frozenset[str]) -> list[Meanwhile]:
    pairs = list(item.pairs())
    if pairs and pairs[0][0].text() == "wait":
        fields = item.fields(("wait", "blocked"), "wait")
        fields.need("wait").choice(("grace-period",), "wait")
        return [Meanwhile(item.line, None, fields.get("blocked", Value.flag, False))]
    blocked, rest = _without_blocked(item)
    steps: list[Step] = []
    for step in read_steps(rest, domains):
        if step.errno is not None or isinstance(step, ResetStep):
            raise item.error("steps while a reader is held cannot be refused, and cannot be reset")
        if blocked and isinstance(step, _NO_COMMAND):
            raise item.error("only a command can be blocked")
        if isinstance(step, MapStep) and step.remap:
            # Between the two commands nothing is mapped, which the reader may see.
            steps.append(UnmapStep(step.line, step.domain, iova=step.iova, size=step.size))
            step = MapStep(
                step.line, step.domain, iova=step.iova, pa=step.pa, size=step.size, prot=step.prot, leaf=step.leaf
            )
        steps.append(step)
    if blocked and len(steps) > 1:
        raise item.error("remap is two commands, and only one can be blocked")
    return [Meanwhile(item.line, step, blocked) for step in steps]


def _without_blocked(item: Value) -> tuple[bool, Value]:
    """Return whether the step has ``blocked: true``, and a list of only the step, without that key."""
    pairs = list(item.pairs())
    blocked = False
    if len(pairs) == 1 and pairs[0][1].is_mapping():
        key, arguments = pairs[0]
        for name, value in arguments.pairs():
            if name.text() == "blocked":
                blocked = value.flag()
        kept = [pair for pair in arguments.node.value if pair[0].value != "blocked"]
        inner = yaml.MappingNode(arguments.node.tag, kept, arguments.node.start_mark, arguments.node.end_mark)
        outer = yaml.MappingNode(item.node.tag, [(key.node, inner)], item.node.start_mark, item.node.end_mark)
        item = Value(item.path, outer)
    alone = yaml.SequenceNode("tag:yaml.org,2002:seq", [item.node], item.node.start_mark, item.node.end_mark)
    return blocked, Value(item.path, alone)


def read_storm(value: Value, domains: frozenset[str]) -> StormSpec:
    """Parse ``storm: {iova: ..., cell: ..., cells: N, ...}``."""
    keys = ("domain", "iova", "cell", "cells", "gap", "mappers", "operations", "seed", "readers", "pause")
    fields = value.fields(keys, "storm")
    readers = []
    for item in fields.found["readers"].list() if "readers" in fields else ():
        one = item.fields(("file", "size"), "reader")
        file = one.need("file").choice(FILES, "file")
        readers.append((file, one.get("size", lambda v: v.integer(1), 65536)))
    return StormSpec(
        value.line,
        domain_of(fields, domains),
        amount(fields.need("iova")),
        amount(fields.need("cell")),
        fields.need("cells").integer(1),
        fields.get("gap", amount, None),
        fields.get("mappers", lambda v: v.integer(1), 2),
        fields.get("operations", lambda v: v.integer(1), 4000),
        fields.get("seed", Value.integer, 0),
        tuple(readers),
        fields.get("pause", Value.seconds, 0.0),
    )


def read_stretches(value: Value) -> tuple[Stretch, ...]:
    """Parse ``[{iova: ..., size: ...}, ...]``."""
    found = []
    for item in value.list():
        fields = item.fields(("iova", "size"), "a stretch of IOVAs")
        found.append(Stretch(item.line, amount(fields.need("iova")), amount(fields.need("size"))))
    return tuple(found)
