# SPDX-License-Identifier: GPL-2.0-only
"""tools/fresh: what of this machine's configuration goes along into the root that it makes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import bare_machine
import pytest

ROOT = Path(__file__).parents[2]
CERTIFICATE = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n"


@pytest.fixture
def fresh() -> ModuleType:
    loader = SourceFileLoader("fresh", str(ROOT / "tools/fresh"))
    spec = importlib.util.spec_from_loader("fresh", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_local_paths_are_told_from_urls(fresh: ModuleType, tmp_path: Path) -> None:
    for name in ("wheels", "list", "ca.crt"):
        (tmp_path / name).touch()
    (tmp_path / "index/simple").mkdir(parents=True)
    settings = [
        f"https://index.invalid{tmp_path}/wheels",
        f"file://{tmp_path}/wheels https://other.invalid/simple file://{tmp_path}/index/simple",
        f"mirror+file:{tmp_path}/list",
        f'Acquire::https::CaInfo "{tmp_path}/ca.crt";',
        f"{tmp_path}/absent",
        "/ /usr /etc",
    ]
    assert [path.name for path in fresh.local_paths(settings)] == ["wheels", "index", "list", "ca.crt"]


def test_pips_configuration_goes_along(fresh: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, root = tmp_path / "home/me", tmp_path / "root"
    (home / ".config/pip").mkdir(parents=True)
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("pytest<10\n")
    (home / ".config/pip/pip.conf").write_text(f"[global]\nconstraint = {constraints}\n[install]\nno-index = no\n")
    mounted: list[tuple[object, ...]] = []
    monkeypatch.setattr(fresh, "mount", lambda *arguments: mounted.append(arguments))
    for name in [name for name in os.environ if fresh.CARRIED.match(name)]:
        monkeypatch.delenv(name)
    (tmp_path / "wheels").mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "none"))
    monkeypatch.setenv("PIP_RETRIES", "7")
    bundle = tmp_path / "bundle.crt"
    bundle.write_text("# A\n" + CERTIFICATE.format("AAAA") + "# B\n" + CERTIFICATE.format("BBBB"))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    monkeypatch.setenv("https_proxy", "http://proxy.invalid:3128")
    monkeypatch.setenv("EDITOR", "ed")
    env = fresh.carry_registries(root)
    assert (env["PIP_RETRIES"], env["https_proxy"]) == ("7", "http://proxy.invalid:3128")
    assert "EDITOR" not in env
    trusted = sorted((root / "usr/local/share/ca-certificates").iterdir())
    assert [path.read_text() for path in trusted] == [CERTIFICATE.format("AAAA"), CERTIFICATE.format("BBBB")]
    assert (root / "root/.config/pip/pip.conf").read_text() == (home / ".config/pip/pip.conf").read_text()
    there = root / str(tmp_path / "wheels").lstrip("/")
    assert mounted == [("--bind", str(tmp_path / "wheels"), there), ("-o", "remount,bind,ro", there)]
    assert (root / constraints.relative_to("/")).read_text() == "pytest<10\n"


def test_nothing_is_mounted_outside_of_the_namespace(fresh: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="outside of the namespace"):
        fresh.mount("--bind", "/etc", tmp_path)


def test_where_no_root_can_be_made_it_says_why(tmp_path: Path) -> None:
    folder = bare_machine.make(tmp_path / "bin")
    bare_machine.program(folder / "unshare", "#!/bin/sh\necho unshare failed: Operation not permitted >&2; exit 1\n")
    argv = [sys.executable, str(ROOT / "tools/fresh"), "true"]
    done = subprocess.run(argv, env={"PATH": str(folder)}, capture_output=True, text=True, check=False)
    assert done.returncode == 77
    assert "no root of a fresh machine can be made here: " in done.stdout
    assert "Operation not permitted" in done.stdout or "not root" in done.stdout
