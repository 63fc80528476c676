# SPDX-License-Identifier: GPL-2.0-only
"""Build a kernel and its test modules: incrementally in a stable O= directory, finished artefacts into the store."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pytest_iommu.core import paths, process
from pytest_iommu.core.machines import Machine
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.images import bootimage, builderrors, config, toolchain, tree
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.reference import reference_digest
from pytest_iommu.images.source import Source
from pytest_iommu.images.store import Store, StoreEntry, digest, tree_digest

MODULE = paths.MODULE
DUMPS = ("IOMMU_PTDUMP_DEBUGFS", "IO_PAGE_TABLES_DEBUGFS", "IO_PTDUMP_DEBUGFS", "ARM_SMMU_V3_DEBUGFS")
"""Options of dumps that no released kernel has, ours and others: a kernel without them is judged all the same."""
_LINE = re.compile(r"^\s+\[?[A-Z][A-Z0-9_]+\b")
_GENERATED = re.compile(r"^(include|arch/\w+/include)/|^\.config|^(Makefile|source)$|/\.git")
_DEFAULT_LINES = 1300


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """All inputs of a kernel build. ``key`` is the finished kernel's name; ``place`` that of its O= directory."""

    machine: Machine
    flavour: str
    source: Source
    symbols: Mapping[str, str]
    make_args: tuple[str, ...]
    compiler: str
    reference: bool
    reference_digest: str
    module_digest: str

    @property
    def place(self) -> str:
        parts = (self.source.path, self.machine.make_arch, self.flavour, self.compiler, self.make_args, self.reference)
        return digest("build", *parts)

    @property
    def key(self) -> str:
        return digest("kernel", self.place, self.source.identity, config.text(self.symbols), self.reference_digest)

    @property
    def modules_key(self) -> str:
        return digest("modules", self.key, self.module_digest)

    @property
    def configured(self) -> str:
        """A key for the inputs of the configuration step; other changes of the source need no new .config."""
        return digest(self.source.kconfig, config.text(self.symbols), _kconfig_digest() if self.reference else "")

    @property
    def what(self) -> str:
        dump = "reference implementation applied" if self.reference else "as it is"
        if not self.reference and tree.has_dump(self.source.path):
            dump = "tree has its own dump"
        return f"{self.source.description}, {dump}"


def _kconfig_digest() -> str:
    """The reference implementation's Kconfig changes; hooks count completely, because they may contain some."""
    files = [
        path for part in paths.additions() for found in ("**/Kconfig*", "hooks/*.patch") for path in part.glob(found)
    ]
    return digest(*(path.read_bytes() for path in sorted(files)))


def plan(
    machine: Machine,
    flavour: str,
    source: Source,
    extra: Sequence[Path],
    make_args: Sequence[str],
    with_reference: bool | None = None,
) -> BuildPlan:
    """Plan a build; this reads our own files only, so it takes milliseconds.

    ``with_reference`` says whether the reference implementation is put in; None: where the tree has no dump.
    """
    reference = not tree.has_dump(source.path) if with_reference is None else with_reference
    symbols = config.merged(machine, flavour, extra)
    return BuildPlan(
        machine=machine,
        flavour=flavour,
        source=source,
        symbols=symbols,
        make_args=tuple(make_args),
        compiler=toolchain.identity(machine, make_args, source.path, config.text(symbols)),
        reference=reference,
        reference_digest=reference_digest() if reference else "",
        module_digest=tree_digest(paths.module(MODULE)),
    )


class Builder:
    """Executes a plan; one session at a time per O= directory."""

    def __init__(self, store: Store, wanted: BuildPlan, progress: Progress) -> None:
        self.store = store
        self.plan = wanted
        self.progress = progress
        # Not named after the machine: machines of one architecture share a kernel.
        self.out = store.path("builds", f"{wanted.machine.make_arch}-{wanted.flavour}-{wanted.place}")
        self.log = store.path("logs", f"{self.out.name}.log")
        self._state = self.out / ".pytest-iommu.json"
        self._marker = self.out / ".pytest-iommu-building"
        self._changes: tree.Changes | None = None

    @property
    def _name(self) -> str:
        return f"{self.plan.machine.make_arch} {self.plan.flavour}"

    def kernel(self) -> StoreEntry:
        """Return the finished kernel; builds it if the store has none."""
        found = self.store.get("kernel", self.plan.key)
        if found is None:
            self._require_ahead()
            with self._alone():
                found = self.store.get("kernel", self.plan.key) or self._kernel()
        return found

    def _kernel(self) -> StoreEntry:
        with self._tree() as where:
            self._build(where)
        symbols = self.plan.symbols
        about = {
            "description": self.plan.what,
            "not_taken": config.not_taken(symbols, self.out / ".config"),
            "build": str(self.out),
        }
        files = {"Image": self.out / self.plan.machine.image, "config": self.out / ".config"}
        return self.store.put("kernel", self.plan.key, files, about)

    def modules(self) -> StoreEntry:
        """Return the finished test module; builds it if the store has none."""
        found = self.store.get("modules", self.plan.modules_key)
        if found is None:
            self._require_ahead()
            with self._alone():
                found = self.store.get("modules", self.plan.modules_key) or self._modules()
        return found

    def _modules(self) -> StoreEntry:
        with self._tree() as where:
            if self._read_state().get("built") != self.plan.key:
                self._build(where)
            target = self._module(where)
        return self.store.put("modules", self.plan.modules_key, {target.name: target}, {})

    def _alone(self) -> AbstractContextManager[None]:
        """Lock this O= directory, and that of its test module."""
        return self.store.lock(f"builds-{self.out.name}", f"building kernel {self._name}", self.progress)

    def vmlinux(self) -> Path | None:
        """Return the kernel with symbols, if the O= directory still has this exact build."""
        path = self.out / "vmlinux"
        return path if self._read_state().get("built") == self.plan.key and path.exists() else None

    def _read_state(self) -> dict[str, object]:
        try:
            return dict(json.loads(self._state.read_text()))
        except (OSError, ValueError):
            return {}

    def _write_state(self, **changes: object) -> None:
        partial = self._state.with_name(self._state.name + ".new")
        partial.write_text(json.dumps({**self._read_state(), **changes}))
        os.replace(partial, self._state)

    @contextmanager
    def _tree(self) -> Iterator[Path]:
        """Provide the tree to build: the source itself, or a link copy of it with the reference implementation.

        Nothing changes the copy during the block.
        """
        source, clean = self.plan.source, True
        if not source.immutable:
            clean = not tree.built_in_place(source.path, self.plan.machine.make_arch)
        if self._changes is None:
            self._changes = tree.Changes({})
            if self.plan.reference:
                with self.store.scratch("patched") as scratch:
                    self._changes = tree.reference_changes(source.path, paths.additions(), scratch)
        if clean and not self._changes.files and paths.make_takes(source.path):
            yield source.path
            return
        copy = tree.LinkCopy(self.store, source.path, clean)
        what = f"building kernel {self._name}"
        with copy.held(self._changes, source.identity, what, self.progress, source.immutable) as where:
            yield where

    def _make(
        self,
        where: Path,
        goals: Sequence[str],
        on_line: Callable[[str], None] | None = None,
        on_tick: Callable[[], None] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> process.Finished:
        machine = self.plan.machine
        argv = ["make", "-C", str(where), f"O={self.out}", f"ARCH={machine.make_arch}"]
        if machine.cross_compile:
            argv.append(f"CROSS_COMPILE={machine.cross_compile}")
        argv += [f"-j{len(os.sched_getaffinity(0))}", *self.plan.make_args, *goals]
        # Fixed time stamp and names: a rebuilt kernel differs only where its source does.
        env = process.environment_of_make(
            LC_ALL="C",
            KBUILD_BUILD_TIMESTAMP="@0",
            KBUILD_BUILD_USER="pytest-iommu",
            KBUILD_BUILD_HOST="pytest-iommu",
            **(variables or {}),
        )
        return process.run(argv, env=env, log=self.log, on_line=on_line, on_tick=on_tick)

    @property
    def _reconfigures(self) -> bool:
        return self._read_state().get("configured") != self.plan.configured or not (self.out / ".config").exists()

    def _require_ahead(self) -> None:
        """SetupError if tools for a new kernel are missing, before anything is built or waited for."""
        if self._reconfigures:
            self._require(config.text(self.plan.symbols))

    def _build(self, where: Path) -> None:
        state, reconfigured = self._read_state(), self._reconfigures
        self.out.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_bytes(b"")
        self._drop_interrupted()
        self._marker.write_bytes(b"")
        # From here on, until the build succeeds, the O= directory is in an unknown state.
        self._write_state(built=None)
        if reconfigured:
            self._configure(where)
        fresh = state.get("lines") is None
        # A new configuration may rebuild everything; a changed source rebuilds as much as the last time.
        expected = _number(state.get("lines" if fresh or reconfigured else "increment"))
        expected = expected or (self._all_lines() if fresh or reconfigured else 60)
        count = 0

        def on_line(line: str) -> None:
            nonlocal count
            count += bool(_LINE.match(line))

        with self.progress.step(f"{'building' if fresh else 'rebuilding'} kernel {self._name}") as step:
            goals = [self.plan.machine.target, "modules"]
            done = self._make(where, goals, on_line, lambda: step.update(count / expected))
            if done.status != 0:
                self._marker.unlink(missing_ok=True)
                raise self._failed(f"the kernel does not build ({self.plan.source.path})", done)
        self._marker.unlink(missing_ok=True)
        counted = {"lines": count} if fresh else {} if reconfigured else {"increment": max(count, 20)}
        self._write_state(built=self.plan.key, **counted)

    def _all_lines(self) -> int:
        return self.plan.machine.lines.get(self.plan.flavour, _DEFAULT_LINES)

    def _configure(self, where: Path) -> None:
        fragment = self.out / ".pytest-iommu.config"
        fragment.write_text(config.text(self.plan.symbols))
        with self.progress.step(f"configuring kernel {self._name}"):
            done = self._make(where, ["allnoconfig"], variables={"KCONFIG_ALLCONFIG": str(fragment)})
        if done.status != 0:
            raise self._failed("the kernel cannot be configured", done)
        missing = set(config.not_taken(self.plan.symbols, self.out / ".config"))
        needed = [name for name in self.plan.machine.required if name in missing]
        if self.plan.reference and "IOMMU_PTDUMP_DEBUGFS" in missing:
            needed.append("IOMMU_PTDUMP_DEBUGFS")
        if config.parse(self.out / ".config").get("CPU_BIG_ENDIAN") == "y":
            raise SetupError(f"this configuration {bootimage.BIG_ENDIAN}")
        if needed:
            name = self.plan.machine.name
            raise SetupError(f"this kernel cannot be configured with {', '.join(needed)}, which machine {name} needs")
        # The symbols that a fragment selects are known only now.
        self._require((self.out / ".config").read_text())
        self._write_state(configured=self.plan.configured)

    def _require(self, configuration: str) -> None:
        """SetupError if tools for this configuration are missing, before minutes of compiling."""
        chosen = toolchain.tools(self.plan.machine, self.plan.make_args)
        toolchain.require(["kernel"], chosen, configuration, self.plan.source.path)

    def _drop_interrupted(self) -> None:
        """Clean up after a killed build: its output may be incomplete, which make would not notice."""
        try:
            since = self._marker.stat().st_mtime_ns
        except OSError:
            return
        for folder, _, files in os.walk(self.out):
            for name in files:
                path = Path(folder, name)
                kept = _GENERATED.search(str(path.relative_to(self.out))) or name.endswith(".cmd")
                if not kept and path.lstat().st_mtime_ns >= since and not _is_complete(path):
                    path.unlink()

    @property
    def _module_copy(self) -> Path:
        return self.store.path("builds", f"{self.out.name}-{MODULE}")

    def _module(self, where: Path) -> Path:
        """Build the test module in a copy of its sources, so that build products do not get into a wheel."""
        copy = self._module_copy
        marker, configured = copy / ".pytest-iommu-building", copy / ".pytest-iommu-configured"
        # After an interruption an object may be incomplete. And kbuild does not notice a changed kernel configuration
        # under an external module, because it looks for its dependencies on include/config/ below M=.
        if copy.exists() and (marker.exists() or not _says(configured, self.plan.configured)):
            shutil.rmtree(copy)
        _mirror(paths.module(MODULE), copy)
        marker.write_bytes(b"")
        configured.write_text(self.plan.configured)
        with self.progress.step(f"building module {MODULE} for {self._name}") as step:
            done = self._make(where, [f"M={copy}", "modules"], on_tick=step.update)
        marker.unlink()
        target = copy / f"{MODULE}.ko"
        if done.status != 0 or not target.exists():
            raise self._failed(f"the test module {MODULE} does not build for this kernel", done)
        return target

    def _failed(self, what: str, done: process.Finished) -> SetupError:
        copy = tree.LinkCopy(self.store, self.plan.source.path, clean=True).path
        originals = builderrors.Originals({copy: self._original, self._module_copy: _ours}, _ours)
        lines = builderrors.shown(done.lines, originals)
        changed = sorted(name for name in self._patched() if str(self.plan.source.path / name) in "\n".join(lines))
        if changed:
            lines.append(f"the reference implementation changed {', '.join(changed)}: line numbers refer to {copy}")
        return SetupError("\n".join([f"{what}:", *(f"  {line}" for line in lines), f"complete output: {self.log}"]))

    def _patched(self) -> set[str]:
        """Return the tree's files that the reference implementation changes in the copy."""
        names = self._changes.files if self._changes is not None else {}
        return {name for name in names if (self.plan.source.path / name).exists()}

    def _original(self, name: str) -> Path:
        """Return the original of a file in the link copy: the tree's, or one that the reference implementation adds."""
        changes = self._changes.files if self._changes is not None else {}
        own = name in changes and name not in self._patched()
        ours = [part / "files" / name for part in paths.additions() if own]
        return next(filter(Path.exists, ours), self.plan.source.path / name)


def _ours(name: str) -> Path | None:
    """Return the test module's source that was copied to a file of its build directory."""
    path = paths.module(MODULE) / name
    return path if path.exists() else None


def _is_complete(target: Path) -> bool:
    """Whether kbuild recorded the command that made this, which it does last, when the target is complete."""
    try:
        return target.with_name(f".{target.name}.cmd").stat().st_mtime_ns >= target.lstat().st_mtime_ns
    except OSError:
        return False


def _says(path: Path, text: str) -> bool:
    try:
        return path.read_text() == text
    except OSError:
        return False


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _mirror(source: Path, target: Path) -> None:
    """Make ``target`` hold ``source``'s files; an unchanged file keeps its time stamp for make."""
    wanted = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    for name in wanted:
        data, copy = (source / name).read_bytes(), target / name
        if not copy.exists() or copy.read_bytes() != data:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(data)
    for path in list(target.rglob("*.[chS]")):
        if path.relative_to(target) not in wanted and not path.name.endswith(".mod.c"):
            path.unlink()
