# SPDX-License-Identifier: GPL-2.0-only
"""What --log-cli-level=DEBUG shows: batches, programs that are run, steps that take long."""

from __future__ import annotations

import io
import logging
import os
import socket
from pathlib import Path

import pytest

from pytest_iommu.core import process
from pytest_iommu.guest import ops
from pytest_iommu.guest.channel import Channel, ChannelError
from pytest_iommu.images.progress import Progress


def test_a_batch(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    batch = [ops.read_file("/sys/a"), ops.write_file("/sys/b", b"x" * 200), ops.sleep(5)]
    theirs.close()
    with caplog.at_level(logging.INFO), pytest.raises(ChannelError):
        channel.run(batch, 1.0)
    assert caplog.text == ""
    channel.close()
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    theirs.close()
    with caplog.at_level(logging.DEBUG), pytest.raises(ChannelError):
        channel.run(batch, 1.0)
    channel.close()
    (record,) = [one for one in caplog.records if one.name == "pytest_iommu.guest.channel"]
    assert record.getMessage() == f"batch 1: read-file /sys/a; write-file /sys/b b'{'x' * 80}'; sleep"


def test_a_program_and_a_step(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level(logging.INFO), Progress(io.StringIO()).step("building it"):
        assert process.run(["sh", "-c", "exit 3"], cwd=tmp_path, env=dict(os.environ)).status == 3
    said = [record.getMessage() for record in caplog.records]
    assert said[:3] == ["building it", "sh -c 'exit 3'", "sh: status 3"]
    assert said[3].startswith("building it: done in ")
