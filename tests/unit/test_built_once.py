# SPDX-License-Identifier: GPL-2.0-only
"""Two sessions that want the same at the same time: one makes it, the other waits and finds it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# What a build comes to, a second long: its result is stored under the hash of its inputs.
SESSION = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from pytest_iommu.images import Progress, artefacts

class Made:
    def __init__(self, image): self.image = image
    def describe(self): return self.image.read_text()

def build(store, *rest):
    found = store.get("kernel", "abc")
    if found is None:
        with store.lock("kernel-abc", "building abc", rest[-2]):
            found = store.get("kernel", "abc")
            if found is None:
                with open("made", "a") as log: log.write("x")
                with rest[-2].step("building abc"): time.sleep(1)
                found = store.put("kernel", "abc", {"Image": b"image"}, {})
    return Made(found["Image"])

artefacts._prepare = build
settings = SimpleNamespace(cache=Path("cache"))
print("ready", flush=True)
sys.stdin.readline()
print(artefacts.prepare(settings, None, "plain", Progress(sys.stdout)).describe())
"""


def test_nothing_is_built_twice(tmp_path: Path) -> None:
    sessions = [
        subprocess.Popen(
            [sys.executable, "-c", SESSION], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for session in sessions:
        assert session.stdout is not None
        assert session.stdout.readline() == "ready\n"
    for session in sessions:
        assert session.stdin is not None
        session.stdin.write("go\n")
        session.stdin.flush()
    said = [session.communicate(timeout=60)[0] for session in sessions]
    assert [session.returncode for session in sessions] == [0, 0, 0]
    assert [text.splitlines()[-1] for text in said] == ["image"] * 3
    assert (tmp_path / "made").read_text() == "x"
    assert sum("waiting for" in text for text in said) == 2
