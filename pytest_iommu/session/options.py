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
KEEP = ("failed", "all", "none")


_HAS_KERNEL = ("local", "ssh", "vng")
"""Targets whose kernel is there already: a module may be given without an image."""

_WANT = ("target", "list", "record", "strict", "report", "json", "ktap", "known")
"""Options that ask for something even of a run without a test of ours."""

_NOT_REPEATED = ("record", "keep", "list", "strict", "report", "json", "ktap", "seed")
"""What says nothing of how a test runs; the seed is put down as the number that it came to."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option: ``--iommu-<name>`` on the command line, ``iommu_<name>`` in the ini file.

    A ``list`` option may be given several times; the command line's values follow the ini file's.
    """

    name: str
    help: str
    kind: Literal["text", "path", "list", "paths", "flag"] = "text"
    metavar: str = ""
    default: str = ""

    @property
    def flag(self) -> str:
        return f"--iommu-{self.name}"

    @property
    def key(self) -> str:
        return KEY_PREFIX + self.name.replace("-", "_")


OPTIONS = (
    Option(
        "target", "where kernels run: qemu, vng, local, ssh://host, replay:DIR; without it, nothing is run", metavar="T"
    ),
    Option("machine", "machine(s) to run on, by comma", metavar="NAME", default="smmuv3"),
    Option("kernel", "kernel tree to test; never written to", kind="path", metavar="DIR"),
    Option("image", "ready kernel image, instead of a tree", kind="path", metavar="FILE"),
    Option(
        "modules",
        "modules of --iommu-image, vng, local or ssh: a directory or tar file",
        kind="path",
        metavar="PATH",
    ),
    Option("flavour", "kernel flavour(s) by comma; the first one is the default", metavar="NAME", default="plain"),
    Option("cache", "where sources, builds and QEMU are kept", kind="path", metavar="DIR"),
    Option("qemu", "auto (PATH if new enough, or fetched), system, fetched[:N], a path", metavar="Q", default="auto"),
    Option("config", "kernel configuration fragment, applied last", kind="paths", metavar="FILE"),
    Option("append", "text added to the kernel command line", metavar="TEXT"),
    Option("qemu-arg", "one more argument for QEMU", kind="list", metavar="ARG"),
    Option("make-arg", "one more argument for the kernel's make, e.g. LLVM=1", kind="list", metavar="ARG"),
    Option("keep", "artefact folders to keep: failed, all or none", metavar="WHICH", default="failed"),
    Option("offline", "fetch nothing; fail when something is missing", kind="flag"),
    Option("list", "list the scenarios and the rules they check, then exit", kind="flag"),
    Option("record", "record the guests' answers to DIR, for --iommu-target=replay:DIR", kind="path", metavar="DIR"),
    Option("strict", "a run that checked nothing fails, also one without a target", kind="flag"),
    Option("report", "write rules.json and rules.md, what became of every rule, to DIR", kind="path", metavar="DIR"),
    Option("json", "write the results, a JSON document, to FILE", kind="path", metavar="FILE"),
    Option("ktap", "write the results, KTAP version 1, to FILE", kind="path", metavar="FILE"),
    Option("known", "known issues: tests that are expected to fail, and must still do so", kind="path", metavar="FILE"),
    Option("examples", "how many scenarios to generate in all", metavar="N", default="300"),
    Option("seed", "what they are generated from: a number, or random", metavar="N", default=str(RELEASE_SEED)),
)

_INI_TYPES: Mapping[str, Literal["string", "args", "linelist", "bool"]] = {
    "text": "string",
    "path": "string",
    "list": "args",
    "paths": "linelist",
    "flag": "bool",
}


def add_options(parser: pytest.Parser) -> None:
    """Register all options and their ini twins."""
    group = parser.getgroup("iommu", "IOMMU page-table dumps")
    for option in OPTIONS:
        if option.kind == "flag":
            group.addoption(option.flag, dest=option.key, action="store_true", default=None, help=option.help)
        elif option.kind in ("list", "paths"):
            group.addoption(
                option.flag, dest=option.key, action="append", default=None, metavar=option.metavar, help=option.help
            )
        else:
            group.addoption(option.flag, dest=option.key, default=None, metavar=option.metavar, help=option.help)
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
    if option.kind in ("list", "paths"):
        values = [*ini, *(given or [])]
        if option.kind == "list":
            return tuple(values)
        # A path of the ini file is relative to the ini file, one of the command line to where the user stands.
        base = config.rootpath
        return tuple([base / path for path in ini] + [config.invocation_params.dir / path for path in given or []])
    if option.kind == "path":
        if given:
            return Path(config.invocation_params.dir, os.path.expanduser(given))
        return Path(config.rootpath, os.path.expanduser(ini)) if ini else None
    return ini if given is None else given


def check(config: pytest.Config) -> None:
    """SetupError for an unknown key of ours in the ini file, and for an option that has a value that cannot be."""
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
    words: list[str] = []
    for option in OPTIONS:
        value = config.getoption(option.key)
        if value is None or option.name in _NOT_REPEATED:
            continue
        if option.kind == "flag":
            words += [option.flag] if value else []
        else:
            words += [f"{option.flag}={one}" for one in (value if isinstance(value, list) else [value])]
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


def load(config: pytest.Config, folder: Path) -> Settings:
    """The settings of this run; ``folder`` is the run's artefact folder. SetupError on a value that cannot be."""
    value = {option.name: _value(config, option) for option in OPTIONS}
    if value["keep"] not in KEEP:
        raise SetupError(f"--iommu-keep is one of {', '.join(KEEP)}, not {value['keep']!r}")
    if value["image"] and value["kernel"]:
        raise SetupError("--iommu-kernel and --iommu-image exclude each other: a tree to build, or a ready image")
    target, _, argument = value["target"].partition(":")
    if value["modules"] and not value["image"] and target not in _HAS_KERNEL:
        raise SetupError("--iommu-modules goes with --iommu-image, or --iommu-target=vng, local or ssh")
    configs: Sequence[Path] = value["config"]
    seed = _number(value["seed"], "--iommu-seed") if value["seed"] != "random" else _random()
    for path in configs:
        _exists(path, "--iommu-config", "file")
    return Settings(
        target=target or None,
        target_argument=argument,
        cache=_cache(value["cache"], target),
        where=config.invocation_params.dir,
        folder=folder,
        machines=_names(value["machine"], "--iommu-machine"),
        flavours=_names(value["flavour"], "--iommu-flavour"),
        kernel=_exists(value["kernel"], "--iommu-kernel", "directory"),
        image=_exists(value["image"], "--iommu-image", "file"),
        modules=_exists(value["modules"], "--iommu-modules", "path"),
        qemu=value["qemu"],
        config=tuple(configs),
        append=value["append"],
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
