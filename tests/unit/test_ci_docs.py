# SPDX-License-Identifier: GPL-2.0-only
"""docs/ci.md and its examples: the options exist, and each file is what the system that reads it takes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_iommu import cli
from pytest_iommu.session.options import OPTIONS

DOCS = Path(__file__).resolve().parents[2] / "docs"
EXAMPLES = sorted(path for path in (DOCS / "examples").iterdir() if path.is_file())
TEXTS = [DOCS / "ci.md", *EXAMPLES]
MACHINE = "virt,gic-version=3,iommu=smmuv3"


def load(name: str) -> Any:
    return yaml.safe_load((DOCS / "examples" / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_options_are_there(path: Path) -> None:
    known = {option.flag for option in OPTIONS}
    named = set(re.findall(r"--iommu-[a-z][a-z-]*", path.read_text(encoding="utf-8")))
    assert named <= known, named - known
    assert named or path.name not in ("ci.md", "github.yml", "gitlab.yml")


def test_commands_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    named = set(re.findall(r"pytest-iommu ([a-z][a-z0-9-]+)", (DOCS / "ci.md").read_text(encoding="utf-8")))
    assert {"bisect-step", "kcidb"} <= named
    for command in named:
        with pytest.raises(SystemExit) as ended:
            cli.main([command, "--help"])
        assert ended.value.code == 0, command
    assert capsys.readouterr().out


def test_every_example_is_named() -> None:
    text = (DOCS / "ci.md").read_text(encoding="utf-8")
    assert [path.name for path in EXAMPLES if f"examples/{path.name}" not in text] == []


@pytest.mark.parametrize(("name", "schema"), [("github.yml", "github-workflows"), ("gitlab.yml", "gitlab-ci")])
def test_the_schema_takes_it(name: str, schema: str) -> None:
    pytest.importorskip("check_jsonschema", reason="needs check-jsonschema, which has the schemas of CI systems")
    argv = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", DOCS / "examples" / name]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflow_runs_what_it_makes() -> None:
    steps = load("github.yml")["jobs"]["conformance"]["steps"]
    (test,) = [step["run"] for step in steps if step.get("name") == "Test"]
    (upload,) = [step for step in steps if "upload-artifact" in step.get("uses", "")]
    assert all(
        word.partition("=")[2].startswith("results/") for word in test.split() if ".xml" in word or "json=" in word
    )
    assert upload["with"]["path"].split() == ["results", ".pytest-iommu"]
    assert upload["if"] == "always()"


def test_the_job_keeps_what_it_makes() -> None:
    job = load("gitlab.yml")["iommu-ptdump"]
    (line,) = [line for line in job["script"] if "pytest" in line]
    files = {
        word.partition("=")[2] for word in line.split() if word.startswith(("--junitxml", "--iommu-json", "--iommu-k"))
    }
    kept = {*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"], "."}
    assert files <= kept
    assert job["artifacts"]["when"] == "always"


def test_the_lava_job_has_an_smmu_and_a_device_behind_it() -> None:
    job = load("lava-kselftest.yaml")
    assert job["context"]["machine"] == MACHINE
    assert any("-device edu" in word for word in job["context"]["extra_options"])
    (test,) = [action["test"] for action in job["actions"] if "test" in action]
    assert test["definitions"][0]["parameters"]["TST_CMDFILES"] == "iommu_ptdump"


def tuxlava(*words: str) -> Any:
    pytest.importorskip("tuxlava", reason="needs tuxlava, which makes the LAVA jobs of tuxrun")
    done = subprocess.run([sys.executable, "-m", "tuxlava", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def test_tuxrun_makes_a_job_of_its_command() -> None:
    text = (DOCS / "examples/tuxrun.sh").read_text(encoding="utf-8").partition("exec tuxrun ")[2]
    words = shlex.split(text.replace("\\\n", " "))
    url = "https://ci.example.org/build"
    given = {"$1": f"{url}/Image.gz", "$2": f"{url}/modules.tar.xz", "$3": f"{url}/kselftest.tar.xz"}
    job = tuxlava(*(given.get(word, word) for word in words))
    assert job["context"]["machine"] == MACHINE
    (test,) = [action["test"] for action in job["actions"] if "test" in action]
    assert "run_kselftest.sh -c iommu_ptdump" in json.dumps(test)


def test_the_lava_job_is_tuxlavas_but_for_what_it_says() -> None:
    url = "https://ci.example.org/build"
    made = tuxlava(
        *("--device", "qemu-arm64", "--tests", "kselftest-iommu", "--kernel", f"{url}/Image.gz"),
        *("--modules", f"{url}/modules.tar.xz"),
        *("--parameters", f"machine={MACHINE}", f"KSELFTEST={url}/kselftest.tar.xz"),
    )
    job = load("lava-kselftest.yaml")
    deploy, boot, test = (next(iter(action.values())) for action in job["actions"])
    its_deploy, its_boot, its_test = (next(iter(action.values())) for action in made["actions"])
    assert deploy["images"]["rootfs"] == its_deploy["images"]["rootfs"]
    assert {**boot, "timeout": 0} == {**its_boot, "timeout": 0}
    (ours,), (theirs,) = test["definitions"], its_test["definitions"]
    assert {**ours, "parameters": 0, "name": 0, "repository": 0} == {
        **theirs,
        "parameters": 0,
        "name": 0,
        "repository": 0,
    }
    assert ours["parameters"].keys() <= theirs["parameters"].keys()
