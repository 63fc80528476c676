# SPDX-License-Identifier: GPL-2.0-only
"""What a controller hands to its workers arrives, also at another Python."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_iommu.core import paths
from pytest_iommu.core.key import Key
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.settings import Settings
from pytest_iommu.session import handover

SETTINGS = Settings("qemu", Path("/cache"), kernel=Path("/my linux"), config=(Path("a"), Path("/b")), seed=7)
SENT = f"""
import sys
from pathlib import Path
from pytest_iommu.core.key import Key
from pytest_iommu.core.settings import Settings
from pytest_iommu.session import handover
settings = {SETTINGS!r}
sys.stdout.buffer.write(handover.dumps((settings, {{Key("smmuv3", "plain"): Path("/x")}})))
""".replace("PosixPath(", "Path(")


def other_python() -> str | None:
    """A Python of another minor version that this package supports, if the machine has one."""
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    for version in ("3.13", "3.14", "3.12", "3.11"):
        for place in (None, *Path.home().glob(f".pyenv/versions/{version}*/bin")):
            found = shutil.which(f"python{version}", path=place and str(place))
            if found and version != ours and "shims" not in found:
                return found
    return None


def test_it_arrives_as_it_was() -> None:
    sent = (SETTINGS, {Key("smmuv3", "plain", "races"): Path("/x")}, SetupError("no tree"))
    settings, kernels, error = handover.loads(handover.dumps(sent))
    assert (settings, kernels) == sent[:2]
    assert isinstance(error, SetupError)
    assert error.message == "no tree"
    assert b"pathlib" not in handover.dumps(sent)


def test_another_python_is_understood() -> None:
    python = other_python()
    if python is None:
        pytest.skip("needs a Python of another minor version")
    env = {**os.environ, "PYTHONPATH": str(paths.PACKAGE.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    sent = subprocess.run([python, "-c", SENT], capture_output=True, check=True, env=env).stdout
    assert handover.loads(sent) == (SETTINGS, {Key("smmuv3", "plain"): Path("/x")})


def test_nothing_else_is_taken() -> None:
    with pytest.raises(pickle.UnpicklingError, match="does not travel"):
        handover.loads(pickle.dumps(subprocess.run))
