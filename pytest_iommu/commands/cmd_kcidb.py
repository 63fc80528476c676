# SPDX-License-Identifier: GPL-2.0-only
"""``pytest-iommu kcidb FILE.json``: the results of --iommu-json as KCIDB takes them, version 5.3 of its schema.

Every test becomes a test of KCIDB, every kernel that tests ran on a build, an expected failure an incident of the
known issue that it is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.paths import user_path
from pytest_iommu.report.results import SCHEMA

if TYPE_CHECKING:
    from argparse import _SubParsersAction

VERSION = {"major": 5, "minor": 3}
ROOT = "iommu_ptdump"
"""The first word of every test's path."""
EXCERPT = 16384
"""Characters of a log excerpt that KCIDB takes."""

_OUTCOMES = {"passed": "PASS", "skipped": "SKIP", "not-run": "MISS", "xfailed": "FAIL"}
_ERRORS = ("setup-error", "guest-lost", "test-error", "interrupted", "internal-error")
"""Kinds of failures that leave open what the kernel is like."""


@dataclass(frozen=True, slots=True)
class About:
    """What the results do not say. ``build`` is the id of a build that is submitted already; else one is made up."""

    origin: str
    build: str = ""
    commit: str = ""
    repository: str = ""
    tree: str = ""
    log: str = ""


def register(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("kcidb", help="Convert the results of --iommu-json to KCIDB's format.")
    parser.add_argument("results", type=user_path, metavar="FILE.json", help="Results that --iommu-json wrote.")
    parser.add_argument("--origin", required=True, metavar="NAME", help="Name of your CI in KCIDB.")
    parser.add_argument("--build", metavar="ID", help="Id of the build, if your CI submits checkout and build itself.")
    parser.add_argument("--commit", metavar="HASH", help="All 40 digits of the commit that was tested.")
    parser.add_argument("--repository", metavar="URL", help="Repository with that commit, an https address.")
    parser.add_argument("--tree", metavar="NAME", help="Name of that tree, e.g. mainline.")
    parser.add_argument("--log", metavar="URL", help="Address of the run's log.")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the document; the exit status. SetupError for results or options that KCIDB would not take."""
    about = About(
        origin=arguments.origin,
        build=arguments.build or "",
        commit=arguments.commit or "",
        repository=arguments.repository or "",
        tree=arguments.tree or "",
        log=arguments.log or "",
    )
    for value, pattern, flag in (
        (about.origin, r"[a-z0-9_]+", "--origin takes small letters, digits and _"),
        (about.build, r"([a-z0-9_]+:.*)?", "--build takes an id as ORIGIN:WORDS"),
        (about.commit, r"([0-9a-f]{40})?", "--commit takes all 40 digits"),
        (about.repository, r"(https://.*)?", "--repository takes an https address"),
    ):
        if not re.fullmatch(pattern, value):
            raise SetupError(f"{flag}, not {value!r}")
    try:
        found = json.loads(arguments.results.read_text(encoding="utf-8"))
    except OSError as error:
        raise SetupError(f"{arguments.results}: {error.strerror}") from error
    except ValueError as error:
        raise SetupError(f"{arguments.results} is no JSON: {error}") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise SetupError(f"{arguments.results} is not what --iommu-json writes, schema {SCHEMA}")
    print(json.dumps(document(found, about), indent=1))
    return 0


def document(found: Mapping[str, Any], about: About) -> dict[str, Any]:
    """KCIDB's document of one run's results. The same run gives the same ids: submitting it twice does no harm."""
    run = _hash(json.dumps([found["run"], found["guests"], about.commit, about.tree], sort_keys=True))
    made = {} if about.build else _builds(found, about, run)
    tests = list(_tests(found, about, run))
    return {
        "version": VERSION,
        **made,
        "tests": tests,
        **_known(found["tests"], tests, about),
    }


def _builds(found: Mapping[str, Any], about: About, run: str) -> dict[str, Any]:
    """A checkout, and a build for every kernel that tests ran on; one that nothing is known of for the other tests."""
    checkout = {
        "id": f"{about.origin}:{about.commit or run}",
        "origin": about.origin,
        "valid": True,
        "start_time": found["run"]["started"],
        "git_commit_hash": about.commit,
        # An empty string says that nothing is applied; that is only known of the commit itself.
        "git_repository_url": about.repository,
        "tree_name": about.tree,
    }
    builds = []
    for flavour in sorted({_flavour(test) for test in found["tests"]}):
        kernels = [guest["kernel"] for guest in found["guests"] if guest["flavour"] == flavour and guest["kernel"]]
        build = {
            "id": _build_id(about, run, flavour),
            "checkout_id": checkout["id"],
            "origin": about.origin,
            "config_name": flavour,
            "comment": kernels[0] if kernels else "",
            "status": "PASS" if any(guest["flavour"] == flavour for guest in found["guests"]) else "",
        }
        builds.append(_filled(build))
    return {"checkouts": [_filled(checkout)], "builds": builds}


def _tests(found: Mapping[str, Any], about: About, run: str) -> Iterator[dict[str, Any]]:
    emulators = {(guest["machine"], guest["flavour"]): guest["qemu"] for guest in found["guests"]}
    for test in found["tests"]:
        guest = test["guest"] or {}
        place = (guest.get("machine"), guest.get("flavour"))
        where = ", ".join(filter(None, (guest.get("machine"), guest.get("manner"), emulators.get(place))))
        misc = {
            key: test[key] for key in ("kind", "verdict", "broke", "fingerprint", "known", "retried") if test.get(key)
        }
        one = {
            "id": f"{about.origin}:{run}:{test['name']}",
            "origin": about.origin,
            "build_id": _build_id(about, run, _flavour(test)),
            "path": f"{ROOT}.{test['name']}",
            "comment": test.get("reason") or test["id"],
            "status": status(test),
            "start_time": found["run"]["started"],
            "duration": test["seconds"],
            "log_url": about.log,
            "log_excerpt": test.get("text", "").replace("\0", "")[-EXCERPT:],
            "environment": _filled({"comment": where, "misc": guest}),
            "misc": _filled({"node_id": test["id"], "rules": test["rules"], **misc}),
        }
        yield _filled(one)


def status(test: Mapping[str, Any]) -> str:
    """KCIDB's word for the result of a test. ERROR: it failed, but that is not a verdict on the kernel."""
    if test["outcome"] == "failed":
        return "ERROR" if test["kind"] in _ERRORS else "FAIL"
    return _OUTCOMES[test["outcome"]]


def _known(tests: Sequence[Mapping[str, Any]], made: Sequence[Mapping[str, Any]], about: About) -> dict[str, Any]:
    """An issue for every known issue that was met, and an incident for every test that met it."""
    issues: dict[str, dict[str, Any]] = {}
    incidents = []
    for test, one in zip(tests, made, strict=True):
        if test["outcome"] != "xfailed" or not test.get("known"):
            continue
        issue = f"{about.origin}:iommu-known:{test['known']}"
        told = {"origin": about.origin, "issue_id": issue, "issue_version": 1, "test_id": one["id"], "present": True}
        incidents.append({"id": f"{one['id']}:known", **told})
        issues[issue] = {
            "id": issue,
            "version": 1,
            "origin": about.origin,
            "comment": test["reason"],
            "culprit": {"code": True, "tool": False, "harness": False},
        }
    return {"issues": list(issues.values()), "incidents": incidents} if issues else {}


def _build_id(about: About, run: str, flavour: str) -> str:
    return about.build or f"{about.origin}:{run}:{flavour or 'unknown'}"


def _flavour(test: Mapping[str, Any]) -> str:
    return str((test["guest"] or {}).get("flavour", ""))


def _filled(found: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is empty: to KCIDB an empty string is a statement."""
    return {key: value for key, value in found.items() if value not in ("", None, {}, [])}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
