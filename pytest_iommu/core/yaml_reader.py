# SPDX-License-Identifier: GPL-2.0-only
"""A typed reader of YAML that knows its line numbers.

Composed by pyyaml's base loader: every scalar is text, so nothing turns into a number, a date or a bool by itself.
Duplicate and unknown keys are errors; every error is ``file:line: message``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import yaml

from pytest_iommu.core.model import parse_size
from pytest_iommu.core.outcomes import SetupError

T = TypeVar("T")
_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}


class ScenarioError(SetupError):
    """A mistake in a scenario file; ``path`` and ``line`` (from 1) say where, ``problem`` what."""

    def __init__(self, path: Path, line: int, message: str) -> None:
        super().__init__(f"{path}:{line}: {message}")
        self.path = path
        self.line = line
        self.problem = message


class Value:
    """One node of a file."""

    __slots__ = ("node", "path")

    def __init__(self, path: Path, node: yaml.Node) -> None:
        self.path = path
        self.node = node

    @property
    def line(self) -> int:
        """The line it starts on, from 1."""
        return int(self.node.start_mark.line) + 1

    def error(self, message: str) -> ScenarioError:
        """An error that points here."""
        return ScenarioError(self.path, self.line, message)

    def text(self) -> str:
        """The text of a scalar. ScenarioError when it is something else, or nothing."""
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.error("here should be a word, not a list or mapping")
        if not self.node.value:
            raise self.error("here should be a value")
        return str(self.node.value)

    def choice(self, known: Collection[str], what: str) -> str:
        """The text, which must be one of ``known``."""
        text = self.text()
        if text not in known:
            raise self.error(f"unknown {what} {text!r}; known: {', '.join(known)}")
        return text

    def flag(self) -> bool:
        """true or false."""
        return self.choice(("true", "false"), "value") == "true"

    def integer(self, low: int = 0) -> int:
        """A number, 0x or decimal, at least ``low``."""
        text = self.text()
        try:
            value = int(text, 0)
        except ValueError:
            raise self.error(f"here should be a number, not {text!r}") from None
        if value < low:
            raise self.error(f"here should be a number from {low} on, not {value}")
        return value

    def size(self) -> int:
        """A number, which may have one of the units K M G T P, e.g. 64K."""
        try:
            return parse_size(self.text())
        except ValueError:
            raise self.error(f"here should be a number or a size such as 64K, not {self.text()!r}") from None

    def seconds(self) -> float:
        """A time: 500ms, 10s or 2m."""
        text = self.text()
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m)", text)
        if match is None:
            raise self.error(f"here should be a time such as 10s, not {text!r}")
        return float(match[1]) * _SECONDS[match[2]]

    def items(self) -> list[Value]:
        """The elements of a list; of a single word, that word alone."""
        if isinstance(self.node, yaml.SequenceNode):
            return [Value(self.path, node) for node in self.node.value]
        if isinstance(self.node, yaml.ScalarNode) and self.node.value:
            return [self]
        raise self.error("here should be a list")

    def list(self) -> list[Value]:
        """The elements of a list, which must be one."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error("here should be a list")
        return self.items()

    def pairs(self) -> Iterator[tuple[Value, Value]]:
        """The keys and values of a mapping, without duplicates. An empty value is an empty mapping."""
        if isinstance(self.node, yaml.ScalarNode) and not self.node.value:
            return
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error("here should be a mapping")
        seen: dict[str, int] = {}
        for key_node, value_node in self.node.value:
            key = Value(self.path, key_node)
            name = key.text()
            if name in seen:
                raise key.error(f"{name!r} is here a second time; the first is on line {seen[name]}")
            seen[name] = key.line
            yield key, Value(self.path, value_node)

    def fields(self, known: Collection[str], what: str) -> Fields:
        """A mapping whose keys are all in ``known``."""
        found: dict[str, Value] = {}
        for key, value in self.pairs():
            name = key.text()
            if name not in known:
                raise key.error(f"{what} has no key {name!r}; known: {', '.join(known)}")
            found[name] = value
        return Fields(self, found, what)

    def is_empty(self) -> bool:
        """Whether nothing follows the key."""
        return isinstance(self.node, yaml.ScalarNode) and not self.node.value

    def is_mapping(self) -> bool:
        """Whether it is a mapping."""
        return isinstance(self.node, yaml.MappingNode)


class Overlaid(Value):
    """A mapping laid over another one, key by key; a key without a value takes one of the other away."""

    __slots__ = ("base",)

    def __init__(self, base: Value, over: Value) -> None:
        super().__init__(over.path, over.node)
        self.base = base

    def pairs(self) -> Iterator[tuple[Value, Value]]:
        """The keys and values of both."""
        over = {key.text(): (key, value) for key, value in super().pairs()}
        for key, value in self.base.pairs():
            if key.text() not in over:
                yield key, value
                continue
            mine, replaced = over.pop(key.text())
            if value.is_mapping() and replaced.is_mapping():
                replaced = Overlaid(value, replaced)
            if not replaced.is_empty():
                yield mine, replaced
        yield from (pair for pair in over.values() if not pair[1].is_empty())


class Fields:
    """A mapping whose keys have been checked."""

    __slots__ = ("found", "owner", "what")

    def __init__(self, owner: Value, found: dict[str, Value], what: str) -> None:
        self.owner = owner
        self.found = found
        self.what = what

    def __contains__(self, key: str) -> bool:
        return key in self.found

    def need(self, key: str) -> Value:
        """The value of a key that must be there."""
        if key not in self.found:
            raise self.owner.error(f"{self.what} needs {key!r}")
        return self.found[key]

    def get(self, key: str, read: Callable[[Value], T], default: T) -> T:
        """The value of a key as ``read`` understands it, or the default."""
        value = self.found.get(key)
        return default if value is None else read(value)

    def words(self, key: str, known: Collection[str] | None = None, what: str = "") -> tuple[str, ...]:
        """A list of words, all in ``known``; empty when the key is absent."""
        if key not in self.found:
            return ()
        items = self.found[key].items()
        return tuple(item.text() if known is None else item.choice(known, what or key) for item in items)


def read_file(path: Path) -> Value:
    """The root of a YAML file. ScenarioError for an empty file and for one that is not YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise ScenarioError(path, 1, f"cannot be read: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise ScenarioError(path, 1, "is not UTF-8 text") from None
    try:
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark
        line = 1 if mark is None else mark.line + 1
        raise ScenarioError(path, line, f"is not YAML: {problem.problem or problem.context}") from None
    except yaml.YAMLError as problem:
        raise ScenarioError(path, 1, f"is not YAML: {problem}") from None
    if node is None:
        raise ScenarioError(path, 1, "is empty")
    return Value(path, node)


def unique(values: Iterable[Value]) -> tuple[str, ...]:
    """The texts, none of them twice."""
    seen: list[str] = []
    for value in values:
        if value.text() in seen:
            raise value.error(f"{value.text()!r} is here twice")
        seen.append(value.text())
    return tuple(seen)
