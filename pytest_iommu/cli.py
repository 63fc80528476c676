# SPDX-License-Identifier: GPL-2.0-only
"""The program ``pytest-iommu``: what is not a test run. Kernels and cache, a guest's shell, the series for upstream."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_iommu.commands import cmd_doctor, cmd_walk
from pytest_iommu.commands import cmd_kselftest as kselftest
from pytest_iommu.core import paths
from pytest_iommu.core.outcomes import SetupError

if TYPE_CHECKING:
    from pytest_iommu.images import Artefacts
    from pytest_iommu.images.store import Store

DEFAULT_PRUNE = "10G"


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """The settings that images.prepare() takes, from this program's options."""

    cache: Path
    kernel: Path | None = None
    image: Path | None = None
    modules: Path | None = None
    qemu: str = "auto"
    config: tuple[Path, ...] = ()
    append: str = ""
    make_args: tuple[str, ...] = ()
    offline: bool = False


def _store(arguments: argparse.Namespace) -> Store:
    from pytest_iommu.images.store import Store

    return Store(arguments.cache)


def _cache_list(arguments: argparse.Namespace) -> int:
    from pytest_iommu.images.store import listing

    total = 0
    for one in listing(arguments.cache):
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.used))
        print(f"{one.size / (1 << 20):8.0f} MB  {used}  {one.path.relative_to(arguments.cache)}")
        total += one.size
    print(f"{total / (1 << 20):8.0f} MB  in {arguments.cache}")
    return 0


def _cache_prune(arguments: argparse.Namespace) -> int:
    from pytest_iommu.core.model import parse_size
    from pytest_iommu.images.store import prune

    try:
        limit = parse_size(arguments.max_size)
    except ValueError:
        raise SetupError(f"--max-size is a size such as 10G, not {arguments.max_size!r}") from None
    if not arguments.cache.is_dir():
        print(f"no cache at {arguments.cache}")
        return 0
    removed = prune(_store(arguments), limit, print)
    print(f"{removed / (1 << 20):.0f} MB removed")
    return 0


def _settings(arguments: argparse.Namespace) -> BuildSettings:
    return BuildSettings(
        cache=arguments.cache,
        kernel=arguments.kernel,
        image=getattr(arguments, "image", None),
        modules=getattr(arguments, "modules", None),
        qemu=arguments.qemu,
        config=tuple(arguments.config),
        make_args=tuple(arguments.make_arg),
        offline=arguments.offline,
    )


def _prepare(arguments: argparse.Namespace, flavour: str) -> Artefacts:
    from pytest_iommu.core import machines
    from pytest_iommu.images import Progress, prepare

    return prepare(_settings(arguments), machines.get(arguments.machine), flavour, Progress(sys.stderr))


def _build(arguments: argparse.Namespace) -> int:
    for flavour in arguments.flavour.split(","):
        made = _prepare(arguments, flavour)
        print(f"{made.machine} {flavour}: {made.describe()}")
        print(f"  image   {made.image}\n  initrd  {made.initrd}\n  vmlinux {made.vmlinux or '-'}")
        for step, seconds in made.timings.items():
            print(f"  {seconds:7.1f} s  {step}")
    return 0


def _shell(rest: Sequence[str]) -> int:
    from pytest_iommu.commands import cmd_shell

    return int(cmd_shell.main(list(rest)) or 0)


def _export(arguments: argparse.Namespace) -> int:
    from pytest_iommu.images.series import export_series

    tree = arguments.kernel
    if tree is None:
        from pytest_iommu.images import source

        cached = source.cached(_store(arguments))
        if cached is None:
            raise SetupError("no kernel source in the cache yet; run `pytest-iommu build` first, or give --kernel=DIR")
        tree = cached.path
    for path in export_series(tree, arguments.directory):
        print(path)
    where = shlex.quote(str(arguments.directory.absolute()))
    print(f"\nTo apply the series, in a kernel tree:\n    git am {where}/*.patch")
    print(f"To send it, cover letter first:\n    git send-email --to=... {where}")
    return 0


def _flavours(arguments: argparse.Namespace) -> int:
    from pytest_iommu.images import config

    print(",".join(config.flavours()))
    return 0


def _rules(arguments: argparse.Namespace) -> int:
    from pytest_iommu.commands import coverage
    from pytest_iommu.core.rules import LATER, RULES

    tests = coverage.collected()
    wrong = coverage.problems(tests, RULES, LATER)
    if not arguments.check:
        print("\n".join(coverage.listing(tests, RULES, LATER)))
        return 0
    left = f", but {len(LATER)} of later work: {' '.join(LATER)}" if LATER else ""
    print("\n".join(wrong) or f"every rule has a test{left}")
    return 1 if wrong else 0


def _bisect_step(arguments: argparse.Namespace) -> int:
    from pytest_iommu.commands import cmd_bisect_step

    return cmd_bisect_step.run(arguments.arguments, arguments.cache)


def _kcidb(arguments: argparse.Namespace) -> int:
    from pytest_iommu.commands import cmd_kcidb

    return cmd_kcidb.run(arguments)


def _kconfig(arguments: argparse.Namespace) -> int:
    from pytest_iommu.core import machines
    from pytest_iommu.images import config

    symbols = config.merged(machines.get(arguments.machine), arguments.flavour, arguments.config)
    arguments.directory.mkdir(parents=True, exist_ok=True)
    target = arguments.directory / f"iommu-{arguments.machine}-{arguments.flavour}.config"
    target.write_text(config.text(symbols))
    print(f"{target}\nLay it over a tree's configuration with: scripts/kconfig/merge_config.sh -m .config {target}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pytest-iommu", description=__doc__)
    parser.add_argument("--cache", type=Path, metavar="DIR", help=f"the cache directory ({paths.default_cache()})")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    cache = commands.add_parser("cache", help="what the cache holds").add_subparsers(required=True, metavar="ACTION")
    cache.add_parser("list", help="list sources, builds, artefacts").set_defaults(run=_cache_list)
    prune = cache.add_parser("prune", help="remove what was used least recently")
    prune.add_argument("--max-size", default=DEFAULT_PRUNE, metavar="SIZE", help="what may stay (default: %(default)s)")
    prune.set_defaults(run=_cache_prune)

    kernel = argparse.ArgumentParser(add_help=False)
    kernel.add_argument("--machine", default="smmuv3")
    kernel.add_argument("--flavour", default="plain", metavar="NAME", help="plain, debug, ...")
    kernel.add_argument("--config", type=Path, action="append", default=[], metavar="FILE", help="a fragment on top")

    build = commands.add_parser("build", parents=[kernel], help="fetch and build all that a run needs")
    build.add_argument("--kernel", type=Path, metavar="DIR", help="kernel tree; without it Debian's newest")
    build.add_argument("--qemu", default="auto", metavar="Q", help="auto, system, fetched[:N] or a path")
    build.add_argument("--make-arg", action="append", default=[], metavar="ARG", help="for the kernel's make")
    build.add_argument("--offline", action="store_true", help="fetch nothing")
    build.set_defaults(run=_build)

    export = commands.add_parser("export", help="write the reference implementation as a git format-patch series")
    export.add_argument("directory", type=Path)
    export.add_argument("--kernel", type=Path, metavar="DIR", help="the tree it is for; without it the cached source")
    export.set_defaults(run=_export)

    kconfig = commands.add_parser(
        "kconfig", parents=[kernel], help="write the configuration fragment for your own tree"
    )
    kconfig.add_argument("directory", type=Path)
    kconfig.set_defaults(run=_kconfig)

    rules = commands.add_parser("rules", help="list the rules with the number of the suite's tests")
    rules.add_argument("--check", action="store_true", help="fail when a rule has no test and none is planned")
    rules.set_defaults(run=_rules)

    step = commands.add_parser("bisect-step", help="for git bisect run: build, boot and test the tree one stands in")
    step.add_argument("arguments", nargs="*", metavar="-- ARGUMENT", help="for pytest; without tests, the whole suite")
    step.set_defaults(run=_bisect_step)

    kcidb = commands.add_parser("kcidb", help="print the results of --iommu-json as KCIDB takes them")
    kcidb.add_argument("results", type=Path, metavar="FILE.json")
    kcidb.add_argument("--origin", required=True, metavar="NAME", help="your CI's name in KCIDB")
    kcidb.add_argument("--build", metavar="ID", help="the build's id, where your CI submits checkout and build itself")
    kcidb.add_argument("--commit", metavar="HASH", help="the 40 digits of the commit that was tested")
    kcidb.add_argument("--repository", metavar="URL", help="where that commit is, https")
    kcidb.add_argument("--tree", metavar="NAME", help="what that tree is called, e.g. mainline")
    kcidb.add_argument("--log", metavar="URL", help="where the log of the run is")
    kcidb.set_defaults(run=_kcidb)

    commands.add_parser("flavours", help="list the kernel flavours, by comma").set_defaults(run=_flavours)
    cmd_doctor.add_parser(commands)
    cmd_walk.add_parser(commands)
    kselftest.add_parser(commands)
    commands.add_parser("shell", add_help=False, help="a shell in the same guest that tests run in")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        # Its options are its own.
        if words[:1] == ["shell"]:
            return _shell(words[1:])
        arguments = _parser().parse_args(words)
        arguments.cache = paths.require_cache(arguments.cache) if arguments.cache else paths.default_cache()
        return int(arguments.run(arguments))
    except SetupError as error:
        print(f"pytest-iommu: {error.message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pytest-iommu: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
