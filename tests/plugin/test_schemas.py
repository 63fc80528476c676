# SPDX-License-Identifier: GPL-2.0-only
"""The JSON Schemas of scenario and machine files say what the loaders take: the same keys, and no other."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from scenario_changes import CHANGES, case
from test_scenario_keys import context_of

from pytest_iommu import cli, formats
from pytest_iommu.commands.cmd_schema import SCHEMAS
from pytest_iommu.core import flavours, machines, paths
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.rules import RULES
from pytest_iommu.core.yaml_reader import Value
from pytest_iommu.scenario import ScenarioError, load
from pytest_iommu.scenario.race_words import POINTS, WAYS
from pytest_iommu.scenario.racing import WALKED
from pytest_iommu.scenario.steps import CONFIGS, EVENTS, FILES, READERS
from pytest_iommu.scenario.variants import DEVICES, GRANULES, MACHINES, STAGES

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "extending"
SHIPPED = [*sorted((paths.conformance() / "scenarios").glob("*.yaml")), *sorted(EXAMPLES.glob("*/*.iommu.yaml"))]
OURS = sorted((paths.qemu_images() / "machines").glob("*.yaml"))
WHERE = {
    "a scenario file": "",
    "a case": "case",
    "a reader of a storm": "storm-reader",
    "a stretch of IOVAs": "stretch",
    **{word: word for word in ("defaults", "domain", "table", "needs", "how", *READERS)},
    **{word: word for word in ("race", "reader", "hold", "wait", "storm")},
}
"""What the loader calls a mapping, and where its keys are in the schema; repeat is below its own anyOf."""
MACHINE_PLACES = {
    "a machine": "",
    "a device": "device",
    "a range": "bounds",
    **{word: word for word in ("qemu", "kernel", "iommu", "scratch", "ids", "device-tree")},
}
FREE = ("domains", "dump", "stages", "s1", "s2", "lines", "cpus", "since", "moved", "iommus")
"""Mappings whose keys are names."""


def schema(what: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(SCHEMAS[what].read_text(encoding="utf-8"))
    return found


def validator(what: str) -> Any:
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema, of the extra `dev`")
    jsonschema.Draft202012Validator.check_schema(schema(what))
    return jsonschema.Draft202012Validator(schema(what))


@pytest.fixture(scope="module")
def scenarios() -> Any:
    return validator("scenario")


@pytest.fixture(scope="module")
def described() -> Any:
    return validator("machine")


def resolved(node: yaml.Node | None) -> Any:
    """What an editor sees: the core schema of YAML 1.2."""
    if isinstance(node, yaml.MappingNode):
        return {key.value: resolved(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [resolved(one) for one in node.value]
    text = "" if node is None else str(node.value)
    if getattr(node, "style", None) is not None:
        return text
    if text in ("", "~", "null"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"[-+]?[0-9]+", text):
        return int(text)
    if re.fullmatch(r"0x[0-9a-fA-F]+", text):
        return int(text, 16)
    return float(text) if re.fullmatch(r"[-+]?[0-9]*\.[0-9]+", text) else text


def content(text: str) -> Any:
    return resolved(yaml.compose(text, Loader=yaml.BaseLoader))


def problems(found: Any, data: Any) -> list[str]:
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in found.iter_errors(data)]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_scenarios_are_as_the_schema_says(path: Path, scenarios: Any) -> None:
    assert problems(scenarios, content(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", [*OURS, EXAMPLES / "machine" / "board.yaml"], ids=lambda path: path.name)
def test_shipped_machines_are_as_the_schema_says(path: Path, described: Any) -> None:
    assert problems(described, content(path.read_text(encoding="utf-8"))) == []


def taken(folder: Path, text: str) -> bool:
    path = folder / "x.iommu.yaml"
    path.write_text(text)
    try:
        load(path)
    except ScenarioError:
        return False
    return True


@pytest.mark.parametrize(("where", "key"), CHANGES)
def test_what_the_loader_takes_the_schema_takes(where: str, key: str, tmp_path: Path, scenarios: Any) -> None:
    files = [text for text in CHANGES[where, key] if taken(tmp_path, text)]
    assert files
    for text in files:
        assert problems(scenarios, content(text)) == [], text


def keys_of(what: str, place: str) -> set[str]:
    found = schema(what)
    return set((found["$defs"][place] if place else found)["properties"])


@pytest.fixture
def read_keys(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Context -> keys of all mappings that are read from now on."""
    found: dict[str, set[str]] = {}
    original = Value.fields

    def fields(self: Value, known: Any, what: str) -> Any:
        found.setdefault(context_of(what, known), set()).update(known)
        return original(self, known, what)

    monkeypatch.setattr(Value, "fields", fields)
    return found


def test_keys_of_scenarios_are_those_of_the_loader(read_keys: dict[str, set[str]], tmp_path: Path) -> None:
    for text in [case("do: [{reset: {}}]"), *(text for files in CHANGES.values() for text in files)]:
        taken(tmp_path, text)
    (repeat,) = (one for one in schema("scenario")["$defs"]["repeat"]["anyOf"] if "properties" in one)
    assert set(repeat["properties"]) == read_keys.pop("repeat")
    assert set(WHERE) == set(read_keys)
    assert {where: keys_of("scenario", place) for where, place in WHERE.items()} == read_keys


def test_steps_meanwhile_have_the_same_keys_and_blocked() -> None:
    for word in READERS:
        if word != "reset":
            wanted = keys_of("scenario", word) - {"errno"} | {"blocked"}
            assert keys_of("scenario", f"meanwhile-{word}") == wanted, word


def test_keys_of_machines_are_those_of_the_loader(read_keys: dict[str, set[str]]) -> None:
    for path in OURS:
        machines.load(path)
    assert {where: keys_of("machine", place) for where, place in MACHINE_PLACES.items()} == read_keys
    assert keys_of("machine", "agent") == keys_of("machine", "device")


def mappings(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all mappings whose keys are fixed."""
    if isinstance(data, dict):
        if not path or path[-1] not in FREE:
            yield path
        for key, value in data.items():
            yield from mappings(value, (*path, key))
    elif isinstance(data, list):
        for number, value in enumerate(data):
            yield from mappings(value, (*path, number))


def with_unknown(data: Any, path: tuple[Any, ...]) -> Any:
    changed = copy.deepcopy(data)
    here = changed
    for step in path:
        here = here[step]
    here["colour"] = "red"
    return changed


def test_unknown_keys_of_scenarios_are_refused_by_both(tmp_path: Path, scenarios: Any) -> None:
    for (where, key), files in CHANGES.items():
        data = content(files[1])
        if not taken(tmp_path, files[1]):
            continue
        for path in mappings(data):
            changed = with_unknown(data, path)
            assert not taken(tmp_path, json.dumps(changed)), (where, key, path)
            assert not scenarios.is_valid(changed), (where, key, path)


def test_unknown_keys_of_machines_are_refused_by_both(tmp_path: Path, described: Any) -> None:
    for path in OURS:
        data = content(path.read_text(encoding="utf-8"))
        for place in mappings(data):
            changed = with_unknown(data, place)
            file = tmp_path / path.name
            file.write_text(json.dumps(changed))
            with pytest.raises(SetupError, match="has no key 'colour'"):
                machines.load(file)
            assert not described.is_valid(changed), (path.name, place)


@pytest.mark.parametrize(
    "words",
    [
        "rules: [NO-1]",
        "rules: []",
        "rules: [RNG-1], do: [{map: {iova: 0x1000, pa: 0x1000, size: 4K}}]",
        "rules: [RNG-1], do: [{map: {iova: 0x1000, pa: 0x1000, size: 4K, prot: rr}}]",
        "rules: [RNG-1], do: [{map: {iova: 0x1000, pa: 0x1000, size: 4K, prot: rw, istep: 4K}}]",
        "rules: [RNG-1], do: [{unmap: {iova: 4X, size: 4K}}]",
        "rules: [RNG-1], do: [{check: {}, reset: {}}]",
        "rules: [RNG-1], do: [{dma: {device: edu0}}]",
        "rules: [RNG-1], do: [{expect: {open: ok, read: ok}}]",
        "rules: [RNG-1], do: [{read: {file: info, how: {size: 3}}}]",
        "rules: [RNG-1], timeout: 10",
        "rules: [RNG-1], do: [{reset: {}}], stays: [{iova: 0, size: 4K}]",
        "rules: [RNG-1], race: {hold: {at: copying, iova: 0}, meanwhile: []}",
        "rules: [RNG-1], race: {hold: {at: leaf-loaded}, meanwhile: []}",
        "rules: [RNG-1], needs: {config: [CONFIG_KASAN]}, do: [{reset: {}}]",
    ],
)
def test_mistakes_are_seen_by_both(words: str, tmp_path: Path, scenarios: Any) -> None:
    text = f"suite: s\ncases:\n  - {{name: x, stages: [s1], {words}}}\n"
    assert not taken(tmp_path, text)
    assert not scenarios.is_valid(content(text))


@pytest.mark.parametrize(
    "text",
    [
        "base: smmuv3",
        "name: m",
        "{name: m, base: smmuv3, ram: much}",
        "{name: m, base: smmuv3, stages: {s1: {ias: 48}}}",
        "{name: m, base: smmuv3, devices: [{name: edu0, driver: edu, address: '00:01.0'}]}",
    ],
)
def test_what_a_machine_lacks_is_seen(text: str, described: Any) -> None:
    assert not described.is_valid(content(text))


def listed(name: str) -> list[str]:
    """The words that an editor offers."""
    found = schema("scenario")["$defs"][name]
    words: list[str] = found["enum"] if "enum" in found else found["anyOf"][0]["enum"]
    return words


def test_words_are_those_of_the_loader() -> None:
    defs = schema("scenario")["$defs"]
    assert listed("rule") == list(RULES)
    assert listed("format") == list(formats.names())
    assert listed("machine") == list(machines.names())
    assert set(listed("device")) == {name for machine in machines.names() for name in DEVICES[machine]}
    assert schema("scenario")["$defs"]["flavour"]["examples"] == list(flavours.names())
    assert listed("granule") == list(GRANULES)
    assert (listed("file"), listed("walked")) == (list(FILES), list(WALKED))
    assert defs["domain"]["properties"]["stage"]["enum"] == list(STAGES)
    assert defs["hold"]["properties"]["at"]["enum"] == list(POINTS)
    assert defs["hold"]["properties"]["how"]["enum"] == list(WAYS)
    assert defs["check"]["properties"]["config"]["enum"] == list(CONFIGS)
    assert defs["dma"]["properties"]["expect"]["enum"] == ["ok", *EVENTS]
    assert set(machines.names()) <= set(MACHINES)


def described_keys(data: Any, path: str = "") -> Iterator[str]:
    """Every key of the schema that says nothing of itself."""
    defs = data["$defs"]
    for name, one in {"": data, **defs}.items():
        for key, value in one.get("properties", {}).items():
            behind = defs[value["$ref"].rpartition("/")[2]] if "$ref" in value else {}
            if not (value.get("description") or behind.get("description")):
                yield f"{name}.{key}"


@pytest.mark.parametrize("what", SCHEMAS)
def test_every_key_is_described(what: str) -> None:
    assert list(described_keys(schema(what))) == []


@pytest.mark.parametrize("what", SCHEMAS)
def test_the_command_prints_it(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema", what]) == 0
    assert json.loads(capsys.readouterr().out) == schema(what)
