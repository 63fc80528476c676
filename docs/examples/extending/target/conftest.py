# SPDX-License-Identifier: GPL-2.0-only
"""The target `board`: a program behind a pipe. Each batch and each answer is a line of JSON."""

import json
import select
import subprocess
import sys
from base64 import b64decode, b64encode
from pathlib import Path

from pytest_iommu import Evidence, GuestLost, KernelHang, Reply, Result, TargetKind

BOARD = Path(__file__).with_name("board.py")


class BoardGuest:
    name = "board"
    memory = None  # nobody can read its RAM: only EXPECTED is checked

    def __init__(self, argument):
        self._command = [sys.executable, str(BOARD), argument]
        self._child = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def run(self, ops, timeout=10.0):
        words = [[op.code, op.a, op.b, op.path, b64encode(op.data).decode()] for op in ops]
        try:
            self._child.stdin.write(json.dumps(words).encode() + b"\n")
        except OSError as error:
            raise GuestLost("the board has hung up", self.evidence()) from error
        if not select.select([self._child.stdout], [], [], timeout)[0]:
            raise KernelHang(f"the board did not answer in {timeout:.0f}s", self.evidence())
        line = self._child.stdout.readline()
        if not line:
            raise GuestLost("the board has hung up", self.evidence())
        return Reply(tuple(Result(value, b64decode(data)) for value, data in json.loads(line)))

    def pause(self):
        pass

    def close(self):
        self._child.kill()
        self._child.communicate()

    def evidence(self):
        return Evidence(command=" ".join(self._command))


class BoardTarget:
    name = "board"

    def __init__(self, argument):
        self._argument = argument

    def start(self):
        return BoardGuest(self._argument)


def make(settings, machine, key, kernel):
    return BoardTarget(settings.target_argument)


def pytest_iommu_targets(config):
    return {
        "board": TargetKind(
            make, needs_kernel=False, programs=False, live=False, note="this is no kernel"
        )
    }
