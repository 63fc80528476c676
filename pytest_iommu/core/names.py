# SPDX-License-Identifier: GPL-2.0-only
"""Names of tests that every consumer of KTAP leaves as they are: letters, digits and hyphens, and each only once.

LKFT's parser takes [digits] out of a name and makes an underscore of what it does not like, NIPA's a hyphen of all but
letters and digits; a name that is a number may be taken for the test's. So brackets go, and a number gets a letter.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

_SUFFIXES = (".iommu.yaml", ".iommu-ksft", ".py", ".yaml")
_Group = tuple[str, ...]
_Key = TypeVar("_Key", str, _Group)


def names(nodeids: Iterable[str]) -> dict[str, tuple[str, str]]:
    """node id -> names of its group (file, and suite or class) and of its case; no two are the same.

    A name depends on its node id alone, but for those that would be the same: these get a hash of it.
    """
    members: dict[_Group, dict[str, str]] = {}
    for nodeid in nodeids:
        group, case = _parts(nodeid)
        members.setdefault(group, {})[case] = nodeid
    found: dict[str, tuple[str, str]] = {}
    for group, name in _unique({group: _group(*group) for group in members}).items():
        cases = members[group]
        found |= {cases[case]: (name, called) for case, called in _unique({case: case for case in cases}).items()}
    return found


def clean(text: str) -> str:
    """A text as words of letters and digits joined by hyphens, none of them a mere number."""
    # What would be lost and tells parameters apart: the sign of a number.
    signed = re.sub(r"(?:^|(?<=[\[\-_:,]))-(?=\d)", "-minus-", text)
    words = re.findall(r"[0-9A-Za-z]+", signed)
    return "-".join(f"n{word}" if word.isdecimal() else word for word in words) or "unnamed"


def _parts(nodeid: str) -> tuple[_Group, str]:
    """The node id's file and suite or class, and the rest."""
    head, bracket, parameters = nodeid.partition("[")
    *before, last = head.split("::")
    if not before:
        return (head,), "collection"
    return tuple(before), last + bracket + parameters


def _group(path: str, *nodes: str) -> str:
    stem = path.rpartition("/")[2]
    for suffix in _SUFFIXES:
        stem = stem.removesuffix(suffix)
    return "-".join(dict.fromkeys([stem, *nodes]))


def _unique(texts: dict[_Key, str]) -> dict[_Key, str]:
    cleaned = {key: clean(text) for key, text in texts.items()}
    often = Counter(name.lower() for name in cleaned.values())
    return {key: f"{name}-{_hash(key)}" if often[name.lower()] > 1 else name for key, name in cleaned.items()}


def _hash(key: str | _Group) -> str:
    text = key if isinstance(key, str) else "::".join(key)
    return "h" + hashlib.sha256(text.encode()).hexdigest()[:7]
