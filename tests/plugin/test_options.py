# SPDX-License-Identifier: GPL-2.0-only
"""Every option changes something, from the command line and from its ini key, and is in README.md's table.

The options are those of settings.OPTIONS: a new one without a row in EFFECTS fails here.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from bench import Bench

from pytest_iommu.check.generate.written import shares
from pytest_iommu.core import machines
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.settings import Settings
from pytest_iommu.dialects import DIALECTS, LIVE_TEXTS
from pytest_iommu.images import agent, artefacts, bootimage, kernel, qemu_binary, toolchain
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.qemu_binary import Qemu
from pytest_iommu.images.store import Store
from pytest_iommu.session import options
from pytest_iommu.session.options import OPTIONS
from pytest_iommu.session.run import Run
from pytest_iommu.targets import registry
from pytest_iommu.targets.qemu import boot_of
from pytest_iommu.targets.registry import BUILTIN, TargetKind

ROOT = Path(__file__).parents[2]
NODE = "basics.iommu.yaml::basics::two-pages[smmuv3-s1-4k]"


class Stage:
    """A directory in which settings are read, and stand-ins for all that fetches, compiles or boots."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pytester = pytester
        self._patch = monkeypatch
        path = pytester.path
        (path / "linux").mkdir()
        (path / "linux" / "Makefile").write_text("VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\n")
        (path / "linux" / "Kconfig").write_text("")
        (path / "modules").mkdir()
        (path / "modules" / "iommu_ptdump_test.ko").write_text("")
        (path / "fragment").write_text("CONFIG_OF_THE_USER=y\n")
        (path / "Image").write_text("")
        (path / "known.json").write_text('{"schema": 1, "issues": []}')

    def load(self, *words: str) -> Settings:
        """The settings of a run with these options."""
        config = self.pytester.parseconfig("-p", "no:cacheprovider", *words)
        return options.load(config, self.pytester.path / "artefacts")

    def prepared(self, chosen: Settings) -> object:
        """What is asked of those who find, fetch and build for a guest."""
        done: list[object] = []
        emulator = Qemu(("qemu",), "10.0.2", origin="")

        def found(store: Store, machine: object, choice: str) -> Qemu | None:
            done.append(("find QEMU", choice))
            return None if choice == "fetched" else emulator

        def fetched(store: Store, machine: object, progress: Progress, offline: bool, choice: str) -> Qemu:
            done.append(("fetch QEMU", choice, offline))
            return emulator

        class Builder:
            def __init__(self, store: Store, plan: kernel.BuildPlan, progress: Progress) -> None:
                done.append(("build", plan.source.path, plan.make_args, plan.symbols.get("OF_THE_USER"), store.root))
                done.append(("reference", plan.reference))
                raise SetupError("built")

        self._patch.setattr(qemu_binary, "find", found)
        self._patch.setattr(qemu_binary, "fetch", fetched)
        self._patch.setattr(toolchain, "identity", lambda *_: "gcc")
        self._patch.setattr(bootimage, "check", lambda *_: None)
        self._patch.setattr(kernel, "Builder", Builder)
        self._patch.setattr(agent, "build", lambda *_: (_ for _ in ()).throw(SetupError("given")))
        self._patch.setattr(artefacts, "_given", lambda store, image, modules: done.append((image, modules)))
        store = Store(chosen.cache)
        with pytest.raises(SetupError, match="built|given"):
            artefacts._prepare(store, chosen, machines.get("smmuv3"), "plain", Progress(None), False)
        return done

    def command(self, chosen: Settings) -> object:
        """QEMU's command line."""
        made = SimpleNamespace(image="Image", initrd="initrd", qemu=Qemu(("qemu",), "10.0.2", origin=""), page=4096)
        return boot_of(chosen, machines.get("smmuv3"), cast(Any, made), "functional").command(())

    def guests(self, chosen: Settings) -> object:
        """The guests that tests may run on."""
        return Run(cast(Any, None), chosen).allowed

    def dialects(self, chosen: Settings) -> object:
        """The dialects that are looked for."""
        known = Run(cast(Any, None), chosen).dialects
        return [one.name for one in (*DIALECTS, *LIVE_TEXTS) if known.chosen(one.name)]

    def kind(self, chosen: Settings) -> TargetKind:
        hook = SimpleNamespace(pytest_iommu_targets=lambda config: [BUILTIN])
        return Run(cast(Any, SimpleNamespace(hook=hook)), chosen).kind

    def generated(self, chosen: Settings) -> object:
        """The scenarios that nobody wrote."""
        from pytest_iommu.check.generate.strategies import search

        found: list[object] = []
        search(found.append, 5, chosen.seed, self.pytester.path)
        return found


OPTION = {option.name: option for option in OPTIONS}
LINUX = ("--iommu-kernel={path}/linux",)
IMAGE = ("--iommu-image={path}/Image",)

#: option -> what is given besides, its value, and what that has an effect on: settings -> anything that compares
LOADED: dict[str, tuple[tuple[str, ...], str, Callable[[Stage, Settings], object]]] = {
    "target": (("--iommu-target=qemu",), "local", Stage.kind),
    "machine": ((), "smmuv3s1,smmuv3s2", Stage.guests),
    "kernel": (("--iommu-image={path}/Image",), "{path}/linux", Stage.prepared),
    "image": (LINUX, "{path}/Image", Stage.prepared),
    "modules": (IMAGE, "{path}/modules", Stage.prepared),
    "flavour": ((), "debug,64k", Stage.guests),
    "dialect": ((), "vtd,io_ptdump", Stage.dialects),
    "cache": (LINUX, "{path}/cache", Stage.prepared),
    "qemu": (LINUX, "system", Stage.prepared),
    "config": (LINUX, "{path}/fragment", Stage.prepared),
    "append": ((), "iommu.passthrough=1", Stage.command),
    "reference": (LINUX, "always", Stage.prepared),
    "qemu-arg": ((), "-nographic", Stage.command),
    "make-arg": (LINUX, "LLVM=1", Stage.prepared),
    "offline": ((*LINUX, "--iommu-qemu=fetched"), "", Stage.prepared),
    "examples": ((), "42", lambda stage, chosen: shares(chosen.examples)),
    "seed": ((), "42", Stage.generated),
}

#: option -> its value, and what it has an effect on in a run on a recording, where one test fails
RUNS: dict[str, tuple[str, Callable[[Bench, pytest.RunResult], object]]] = {
    "keep": ("all", lambda bench, result: len([path for path in bench.artefacts().iterdir() if path.is_dir()])),
    "list": ("", lambda bench, result: result.outlines.count("rules, with the number of tests:")),
    "record": ("again", lambda bench, result: (bench.pytester.path / "again").is_dir()),
    "strict": ("", lambda bench, result: result.ret),
    "report": ("out", lambda bench, result: (bench.pytester.path / "out" / "rules.json").is_file()),
    "json": ("out.json", lambda bench, result: (bench.pytester.path / "out.json").is_file()),
    "ktap": ("out.ktap", lambda bench, result: (bench.pytester.path / "out.ktap").is_file()),
    "known": ("known.yaml", lambda bench, result: result.parseoutcomes().get("xfailed")),
}


@pytest.fixture
def stage(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(pytester, monkeypatch)


@pytest.mark.filterwarnings("ignore:Slow code in plugin")  # of hypothesis: to it this is no run yet
@pytest.mark.parametrize("name", LOADED)
def test_an_option_has_an_effect(stage: Stage, name: str) -> None:
    given, value, effect = LOADED[name]
    option, path = OPTION[name], stage.pytester.path
    base = [word.format(path=path) for word in given]
    value = value.format(path=path)
    word = f"{option.flag}={value}" if value else option.flag
    # What excludes another option, or replaces it, is given in its place.
    replaced = {"target": "target", "kernel": "image", "image": "kernel"}.get(name)
    kept = [one for one in base if not one.startswith(f"--iommu-{replaced}=")]
    without = effect(stage, stage.load(*base))
    by_option = effect(stage, stage.load(*kept, word))
    stage.pytester.makeini(f"[pytest]\n{option.key} = {value or 'true'}\n")
    by_key = effect(stage, stage.load(*kept))
    assert by_option != without
    assert by_key == by_option


@pytest.mark.parametrize("name", RUNS)
def test_an_option_has_an_effect_on_a_run(bench: Bench, name: str) -> None:
    value, effect = RUNS[name]
    option = OPTION[name]
    bench.record(lambda case, file, text: text.replace("41001000", "41002000") if case == "two-pages" else text)
    (bench.pytester.path / "known.yaml").write_text(f"- {{name: B-1, reason: known, rule: RNG-4, tests: '{NODE}'}}\n")
    chosen = ("-k", "needs-debug") if name == "strict" else ()
    without = effect(bench, bench.run(*chosen))
    by_option = effect(bench, bench.run(*chosen, f"{option.flag}={value}" if value else option.flag))
    for left in ("again", "out", "out.json", "out.ktap"):
        _remove(bench.pytester.path / left)
    bench.pytester.makeini(f"[pytest]\n{option.key} = {value or 'true'}\n")
    by_key = effect(bench, bench.run(*chosen))
    assert by_option != without
    assert by_key == by_option


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def test_every_option_has_a_row() -> None:
    assert {*LOADED, *RUNS} == {option.name for option in OPTIONS}
    assert not {*LOADED} & {*RUNS}


def test_the_manual_has_every_option() -> None:
    table = (ROOT / "README.md").read_text().partition("## Options\n")[2].partition("\n## ")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| --")]
    assert sorted(re.findall(r"--iommu-[\w-]+", " ".join(cells))) == sorted(option.flag for option in OPTIONS)


def test_the_manual_has_every_target() -> None:
    rows = [row for row in (ROOT / "docs" / "targets.md").read_text().splitlines() if row.startswith("| `")]
    first = [row.split("`")[1] for row in rows]
    assert {name.partition(":")[0] for name in first} == set(BUILTIN)
    assert {name.partition(":")[0] for name in first if ":" in name} == {
        name for name, kind in BUILTIN.items() if kind.takes_argument
    }


@pytest.mark.parametrize("name", BUILTIN)
def test_what_a_target_is_said_to_ignore_it_does_not_read(name: str) -> None:
    running = ("running", "stdio")
    modules = {
        "ssh": ("ssh", *running),
        "serial": ("serial", "console_shell", *running),
        "local": ("local", *running),
        "vng": ("vng", *running),
    }.get(name, (name,))
    sources = [(Path(registry.__file__).parent / f"{module}.py").read_text() for module in modules]
    read = set(re.findall(r"settings\.(\w+)", "\n".join(sources)))
    attributes = {"qemu-arg": "qemu_args", "make-arg": "make_args"}
    for ignored in BUILTIN[name].ignores:
        assert attributes.get(ignored, ignored) not in read


def test_keep_all_keeps_what_passed_too(recorded: Bench) -> None:
    recorded.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.iommu_rules("LAY-3")
        def test_in_python(iommu_guest):
            iommu_guest.read("/sys/kernel/debug/iommu/domains")
        """
    )
    recorded.run("--iommu-keep=all", "-k", "pages").assert_outcomes(passed=1, deselected=4)
    folder = recorded.artefacts() / "basics-basics-two-pages-smmuv3-s1-4k"
    assert "map d 0x1001000" in (folder / "commands.txt").read_text()
    assert (folder / "d.page_table.txt").read_text().startswith("0x0000000001000000-")
    assert not (folder / "failure.txt").exists()


def test_what_has_no_effect_with_a_target_is_told(recorded: Bench) -> None:
    result = recorded.run("--iommu-append=iommu.strict=0", "--iommu-make-arg=LLVM=1", "--iommu-strict")
    result.stdout.fnmatch_lines(["iommu: no effect here: --iommu-append, --iommu-make-arg"])
    assert "no effect" not in recorded.run("--iommu-examples=3").stdout.str()


def test_a_target_may_have_machines_of_its_own(pytester: pytest.Pytester) -> None:
    """vng has those of its host's kind; the default machine is one of them."""
    pytester.makepyfile("def test_nothing(): pass")
    header = pytester.runpytest_subprocess("--iommu-target=vng", "--collect-only")
    header.stdout.fnmatch_lines(["iommu: target vng, machine vtd, flavour plain"])
    refused = pytester.runpytest_subprocess("--iommu-target=vng", "--iommu-machine=smmuv3")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(
        ["*--iommu-machine=smmuv3 is an aarch64 machine; --iommu-target=vng has x86_64 machines: amd, vtd, *"]
    )
