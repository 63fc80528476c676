# SPDX-License-Identifier: GPL-2.0-only
"""Command line and ini file -> one frozen Settings object. Every option has an ini twin of the same name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from pytest_iommu.core import paths
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.settings import RELEASE_SEED, Settings
from pytest_iommu.session import again

if TYPE_CHECKING:
    from pytest_iommu.core.known_issues import Known

HANDOVER = "iommu"
"""Where a worker finds the settings and kernels of the controller."""

KEY_PREFIX = "iommu_"

DEBIAN = "debian:"
"""Begins a kernel that is a series of Debian's linux-source, and not a directory."""


_HAS_KERNEL = ("local", "serial", "ssh")
"""Targets whose kernel is there already: a module may be given without an image."""

_MACHINES = {"vng": "vtd"}
"""The default machine of a target, where it is not smmuv3."""

_WANT = ("target", "list", "record", "strict", "report", "json", "ktap", "known")
"""Options that ask for something even of a run without a test of ours."""

_NOT_REPEATED = ("record", "keep", "list", "strict", "report", "json", "ktap", "seed")
"""Options left out of the rerun line; the seed is recorded as the number used."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option: ``--iommu-<name>`` on the command line, ``iommu_<name>`` in the ini file.

    A ``list`` option may be given several times; the command line's values follow the ini file's.
    """

    name: str
    help: str
    kind: Literal["text", "path", "tree", "list", "paths", "flag"] = "text"
    metavar: str = ""
    default: str = ""
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        return f"--iommu-{self.name}"

    @property
    def text(self) -> str:
        """The help text, with choices and default."""
        known = f" Choices: {', '.join(self.choices)}." if self.choices else ""
        return f"{self.help}{known}{f' (default: {self.default})' if self.default else ''}"

    @property
    def key(self) -> str:
        return KEY_PREFIX + self.name.replace("-", "_")

    @property
    def parsed(self) -> dict[str, Any]:
        """How argparse and pytest's parser read it; None where it was not given."""
        if self.kind == "flag":
            return {"dest": self.key, "action": "store_true", "default": None}
        action = "append" if self.kind in ("list", "paths") else "store"
        return {"dest": self.key, "action": action, "default": None, "metavar": self.metavar}

    def words(self, value: Any) -> list[str]:
        """The command line for a value that was parsed so."""
        if self.kind == "flag":
            return [self.flag] if value else []
        return [f"{self.flag}={one}" for one in (value if isinstance(value, list) else [value]) if one is not None]


OPTIONS = (
    Option(
        "target",
        "Where kernels run: qemu, vng, local, ssh://[USER@]HOST[:PORT], serial:DEVICE[,BAUD] (a board's console) or "
        "replay:DIR. Without a target, tests that need a guest are skipped.",
        metavar="TARGET",
    ),
    Option(
        "machine",
        "Machines to run on, separated by commas; the first is the default of tests that name none. "
        "`pytest-iommu machines` lists them. Without this option it is smmuv3, or vtd with --iommu-target=vng.",
        metavar="NAMES",
    ),
    Option(
        "kernel",
        "Kernel tree to build and test; it is never written to. debian:SERIES, e.g. debian:6.12, is that kernel source "
        "of this machine's Debian mirror, which is fetched. Without this option it is the newest supported one.",
        kind="tree",
        metavar="DIR",
    ),
    Option("image", "Ready kernel image to test instead of a tree.", kind="path", metavar="FILE"),
    Option(
        "modules",
        "Modules that belong to --iommu-image, or to the running kernel of local, ssh or serial: a directory or tar "
        "file.",
        kind="path",
        metavar="PATH",
    ),
    Option(
        "flavour",
        "Kernel configurations to build, separated by commas; the first is the default of tests that name none. "
        "`pytest-iommu flavours` lists them.",
        metavar="NAMES",
        default="plain",
    ),
    Option(
        "dialect",
        "Dialects to look for in the kernel, separated by commas; without it all that there are. "
        "`pytest-iommu judge --dialects` lists them.",
        metavar="NAMES",
    ),
    Option("cache", "Directory for sources, builds and QEMU.", kind="path", metavar="DIR"),
    Option(
        "qemu",
        "Which QEMU to run: auto (the one in PATH if it is new enough, else a fetched one), system, fetched[:MAJOR] or "
        "a path.",
        metavar="WHICH",
        default="auto",
    ),
    Option(
        "config",
        "Kernel configuration fragment, applied after all others. Can be repeated.",
        kind="paths",
        metavar="FILE",
    ),
    Option(
        "reference",
        "Whether to put the reference implementation of the dump into the kernel: auto (if it has no dump and the "
        "hooks apply), always or never. Without a dump the kernel's page tables are judged all the same.",
        metavar="WHEN",
        default="auto",
        choices=("auto", "always", "never"),
    ),
    Option("append", "Text to append to the kernel command line.", metavar="TEXT"),
    Option("qemu-arg", "Argument to add to QEMU's command line. Can be repeated.", kind="list", metavar="ARG"),
    Option(
        "make-arg",
        "Argument to add to the kernel's make command, e.g. LLVM=1. Can be repeated.",
        kind="list",
        metavar="ARG",
    ),
    Option(
        "keep",
        "Which tests keep their artefact folder.",
        metavar="WHICH",
        default="failed",
        choices=("failed", "all", "none"),
    ),
    Option("offline", "Fetch nothing; fail if something is missing.", kind="flag"),
    Option("list", "List the collected tests with the rules they check, then exit.", kind="flag"),
    Option(
        "record",
        "Record the guests' answers in DIR, to be used again with --iommu-target=replay:DIR.",
        kind="path",
        metavar="DIR",
    ),
    Option("strict", "Fail if no test checked anything, for example because there is no target.", kind="flag"),
    Option("report", "Write rules.json and rules.md, the result of every rule, to DIR.", kind="path", metavar="DIR"),
    Option("json", "Write the results to FILE as JSON.", kind="path", metavar="FILE"),
    Option("ktap", "Write the results to FILE as KTAP, version 1.", kind="path", metavar="FILE"),
    Option(
        "known",
        "YAML file of known issues. Tests that match are expected to fail; if they pass, that is a failure.",
        kind="path",
        metavar="FILE",
    ),
    Option("examples", "Number of scenarios to generate in all.", metavar="N", default="300"),
    Option("seed", "Seed for generated scenarios: a number, or 'random'.", metavar="SEED", default=str(RELEASE_SEED)),
)

_INI_TYPES: Mapping[str, Literal["string", "args", "linelist", "bool"]] = {
    "text": "string",
    "path": "string",
    "tree": "string",
    "list": "args",
    "paths": "linelist",
    "flag": "bool",
}


def add_options(parser: pytest.Parser) -> None:
    """Register all options and their ini twins."""
    group = parser.getgroup("iommu", "IOMMU page tables and their dumps (pytest-iommu)")
    for option in OPTIONS:
        group.addoption(option.flag, help=option.text, **option.parsed)
        default: object = {"list": [], "paths": [], "flag": False}.get(option.kind, option.default)
        parser.addini(option.key, f"{option.help} (as {option.flag})", type=_INI_TYPES[option.kind], default=default)


def check_keys(config: pytest.Config) -> None:
    """SetupError for an ini key that begins with ``iommu_`` and that no plugin knows: pytest only warns of it."""
    unknown = sorted(key for key in config._get_unknown_ini_keys() if key.startswith(KEY_PREFIX))
    if not unknown:
        return
    import difflib

    known = [option.key for option in OPTIONS]
    overridden = {word.partition("=")[0] for word in config.getoption("override_ini") or ()}
    lines = []
    for key in unknown:
        where = "-o" if key in overridden else config.inipath or "ini file"
        close = difflib.get_close_matches(key, known, 1)
        told = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
        lines.append(f"{where}: unknown key {key!r}; {told}")
    raise SetupError("\n".join(lines))


def _ini(config: pytest.Config, option: Option) -> Any:
    try:
        return config.getini(option.key)
    except (TypeError, ValueError, pytest.UsageError) as error:
        raise SetupError(f"{option.key} in {config.inipath or 'the ini file'}: {error}") from None


def _value(config: pytest.Config, option: Option) -> Any:
    given = config.getoption(option.key)
    ini = _ini(config, option)
    here, there = config.invocation_params.dir, config.rootpath
    if option.kind == "list":
        return (*ini, *(given or []))
    if option.kind == "paths":
        return (*(_path(there, one) for one in ini), *(_path(here, one) for one in given or []))
    if option.kind == "tree" and str(given or ini).startswith(DEBIAN):
        return str(given or ini)
    if option.kind in ("path", "tree"):
        return _path(here, given) if given else _path(there, ini) if ini else None
    value = ini if given is None else given
    if option.choices and value not in option.choices:
        raise SetupError(f"{option.flag} takes {', '.join(option.choices)}, not {value!r}")
    return value


def _path(base: Path, text: str) -> Path:
    """A path of the command line is relative to where the user stands, one of the ini file to the ini file."""
    return base / os.path.expanduser(text)


def check(config: pytest.Config) -> None:
    """SetupError for an unknown ``iommu_`` key in the ini file and for an invalid option value."""
    if not hasattr(config, "workerinput"):
        check_keys(config)
        load(config, config.rootpath)


def wanted(config: pytest.Config) -> bool:
    """Whether the options, or the controller of this worker, want anything of this run."""
    asked = (_value(config, option) for option in OPTIONS if option.name in _WANT)
    return any(asked) or HANDOVER in getattr(config, "workerinput", ())


def target(config: pytest.Config) -> str:
    """--iommu-target without its argument; also asked before there are settings."""
    return str(config.getoption("iommu_target") or config.getini("iommu_target")).partition(":")[0]


def listing(config: pytest.Config) -> bool:
    """Whether --iommu-list was given, or is in the ini file; also asked before there are settings."""
    given = config.getoption("iommu_list")
    return bool(config.getini("iommu_list") if given is None else given)


def _given(config: pytest.Config, seed: int) -> tuple[str, ...]:
    """What has to be repeated on a command line to run the same again: a random seed as the number it was."""
    repeated = (option for option in OPTIONS if option.name not in _NOT_REPEATED)
    words = [word for option in repeated for word in option.words(config.getoption(option.key))]
    return tuple(words if seed == RELEASE_SEED else [*words, f"--iommu-seed={seed}"])


def _random() -> int:
    import secrets

    return secrets.randbits(32)


def _number(text: str, flag: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise SetupError(f"{flag} takes a number, not {text!r}")
    return int(text)


def _names(text: str, flag: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise SetupError(f"{flag} names nothing")
    return tuple(dict.fromkeys(names))


def _exists(path: Path | None, flag: str, what: Literal["file", "directory", "path"]) -> Path | None:
    test = {"file": Path.is_file, "directory": Path.is_dir, "path": Path.exists}[what]
    if path is not None and not test(path):
        raise SetupError(f"{flag}: no such {what}: {path}")
    return path


def debian_series(given: str, option: str = "") -> str:
    """Return the series of ``debian:6.12``. SetupError for another text."""
    series = given.removeprefix(DEBIAN)
    if not given.startswith(DEBIAN) or not re.fullmatch(r"[0-9]+\.[0-9]+", series):
        raise SetupError(f"{option}{given}: {DEBIAN} takes a series, e.g. {DEBIAN}6.12")
    return series


def _kernel(given: Path | str | None) -> tuple[Path | None, str]:
    """The tree, or the series of Debian's. SetupError for neither, before anything is fetched or built."""
    if isinstance(given, str):
        return None, debian_series(given, "--iommu-kernel=")
    path = _exists(given, "--iommu-kernel", "directory")
    if path is not None:
        from pytest_iommu.images import tree

        tree.require_kernel(path)
    return path, ""


def _known(path: Path | None) -> tuple[Known, ...]:
    if path is None:
        return ()
    from pytest_iommu.core import known_issues

    return known_issues.load(path)


def _cache(given: Path | None, target: str) -> Path:
    """The default one is not looked at where nothing will be built in it: it may not be the user's to choose."""
    if given is None and target in ("", "replay"):
        return paths.default_cache()
    return paths.require_cache(given or paths.default_cache())


def _machines(given: str, target: str, argument: str, where: Path) -> tuple[str, ...]:
    """Those that were named, else those of the recording that is replayed, else the target's."""
    if target == "replay" and not given:
        from pytest_iommu.targets.replay import recorded_machines

        if recorded := recorded_machines(where / argument):
            return recorded
    return _names(given or _MACHINES.get(target, "smmuv3"), "--iommu-machine")


def load(config: pytest.Config, folder: Path) -> Settings:
    """The settings of this run; ``folder`` is the run's artefact folder. SetupError on an invalid value."""
    value = {option.name: _value(config, option) for option in OPTIONS}
    if value["image"] and value["kernel"]:
        raise SetupError("--iommu-kernel and --iommu-image exclude each other: a tree to build, or a ready image")
    target, _, argument = value["target"].partition(":")
    if value["modules"] and not value["image"] and target not in _HAS_KERNEL:
        raise SetupError("--iommu-modules goes with --iommu-image, or --iommu-target=local, ssh or serial")
    configs: Sequence[Path] = value["config"]
    seed = _number(value["seed"], "--iommu-seed") if value["seed"] != "random" else _random()
    kernel, series = _kernel(value["kernel"])
    for path in configs:
        _exists(path, "--iommu-config", "file")
    return Settings(
        target=target or None,
        target_argument=argument,
        cache=_cache(value["cache"], target),
        where=config.invocation_params.dir,
        folder=folder,
        machines=_machines(value["machine"], target, argument, config.invocation_params.dir),
        flavours=_names(value["flavour"], "--iommu-flavour"),
        dialects=_names(value["dialect"], "--iommu-dialect") if value["dialect"] else (),
        kernel=kernel,
        series=series,
        image=_exists(value["image"], "--iommu-image", "file"),
        modules=_exists(value["modules"], "--iommu-modules", "path"),
        qemu=value["qemu"],
        config=tuple(configs),
        append=value["append"],
        reference=value["reference"],
        qemu_args=value["qemu-arg"],
        make_args=value["make-arg"],
        keep=value["keep"],
        offline=value["offline"],
        listing=value["list"],
        record=value["record"],
        strict=value["strict"],
        report=value["report"],
        json=value["json"],
        ktap=value["ktap"],
        known=_known(_exists(value["known"], "--iommu-known", "file")),
        examples=_number(value["examples"], "--iommu-examples"),
        seed=seed,
        given=_given(config, seed),
        program=again.program(),
        pytest_options=again.options(config) if target else (),
    )
