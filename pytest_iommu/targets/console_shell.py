# SPDX-License-Identifier: GPL-2.0-only
"""A root shell on a serial console, before there is an agent: logging in, and sending a program through the shell.

No character that is sent or answered is trusted. What the shell is to do goes as base64 with its SHA-256, and is done
when the two fit; it is said again until the answer comes. So whatever is said here may be done twice.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import re
import select
from typing import BinaryIO, cast

import pexpect
from pexpect import fdpexpect

from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.waiting import Deadline, ready
from pytest_iommu.guest.link import QUIT, encode

LOGIN_TIMEOUT = 60.0
"""Seconds until there is a shell."""

ANSWER = 3.0
"""Seconds after which something is said again; on top of those that the line takes."""

TRIES = 25
TRIES_TO_LOG_IN = 3
BLOCK = 2700
SMALLEST = 300
"""Bytes of a program that go in one line: it is cut finer while lines come garbled."""

PASSWORD_VARIABLE = "PYTEST_IOMMU_SERIAL_PASSWORD"

# Without echo and signals, lines are taken: the hash of the rest, then "run" and a piece of shell, or the number of a
# block and its bytes, which are added to the file F. The answer has the number of the next block and the characters so
# far, twice, for it has no hash: what an answer is to is not certain, so that counts, and not what was sent. Shells
# read byte by byte; head does not, and a terminal gives it no more than a line.
LOOP = """\
T=$(stty -g);stty -echo -isig -ixon -iexten;(unset TMOUT;i=0;l=0;F=/dev/null;echo "~iommu loop"
while [ -t 0 ];do set -- $(head -n 1);case $1 in quit)break;;esac
if [ "$(printf %s "$2 $3"|sha256sum)" = "$1  -" ];then case $2 in run)eval "$(printf %s "$3"|base64 -d)";;
$i)printf %s "$3"|base64 -d>>"$F"&&i=$((i+1))&&l=$((l+${#3}));;esac
echo "~iommu got $2 $i $l $2 $i $l.";else echo "~iommu no.";fi;done);stty "$T"
"""

# "kept" is the answer when the program is there. Else the file F is new, and the blocks begin at 0.
LOOK = """\
umask 077;D="${{TMPDIR:-/tmp}}/pytest-iommu-agent";mkdir -p "$D";G="$D/{name}";F="$G.new";i=0;l=0;exec 2>/dev/null
if [ -O "$D" ]&&[ "$(sha256sum <"$G")" = "{digest}  -" ];then echo "~iommu kept."
else rm -f "$D"/*;:>"$F";if gzip </dev/null >/dev/null;then echo "~iommu packed.";else echo "~iommu plain.";fi;fi
"""
UNPACK = """\
if [ -e "$F" ];then {unpack} <"$F" >"$G";fi;chmod 700 "$G"
if [ "$(sha256sum <"$G")" = "{digest}  -" ];then rm -f "$F";echo "~iommu kept.";else echo "~iommu differs.";fi
"""
ASK = """\
echo Y >/sys/module/printk/parameters/time;mesg n 2>/dev/null;echo "~iommu is $(uname -m)."
"""
START = """\
echo "~iommu start.";IOMMU_AGENT="$G" "$G" --line {session} {patience} "$(printf %s {command}|base64 -d)" 2>&1;break
"""

_LOGIN = rb"(?i)(?<!last )login: *\Z"
_PASSWORD = rb"(?i)password: *\Z"
_INCORRECT = rb"(?i)login incorrect|authentication failure"
_PROMPT = rb"[#$%>~] ?(?:\x1b\[[0-9;?]*[A-Za-z])*\Z"
_OLD_LINE = rb"~[0-9a-f]{4}[DEANP][0-9a-f]{8}"
_NO = rb"~iommu no\."


class ConsoleShell:
    """What is at the other end of ``line``, a descriptor that stays the caller's; ``rate`` is in characters a second.

    All that comes is written to ``record``.
    """

    def __init__(self, name: str, line: int, record: BinaryIO, rate: float) -> None:
        self.name = name
        self._line = line
        self._rate = rate
        self._block = BLOCK
        self._logged_in = False
        os.set_blocking(line, False)
        self._console = fdpexpect.fdspawn(line, timeout=ANSWER, use_poll=True)
        self._console.logfile_read = record

    def log_in(self, user: str, password: str | None) -> None:
        """Log in as ``user`` unless a shell is there already; ``password`` may be empty. SetupError if that fails."""
        deadline = Deadline(LOGIN_TIMEOUT)
        self._say(b"")
        named = 0
        while True:
            found = self._expect([_OLD_LINE, _NO, _INCORRECT, _PASSWORD, _LOGIN, _PROMPT])
            if deadline.over:
                raise SetupError(f"{self.name}: no login and no shell within {LOGIN_TIMEOUT:g} s{self._last()}")
            if found in (0, None):
                # A session that nobody ended: an agent has the line, and may have nothing to say.
                self._send(b"\n" + encode(b"0000", QUIT))
            elif found == 1:
                self._say(b"quit")
            elif named and password is None and found in (2, 3):
                # A slow board may have taken what was meant for an agent as the answer to its question.
                raise SetupError(f"{self.name} asks {user} for a password: set ${PASSWORD_VARIABLE}")
            elif named and (found == 2 or (found == 4 and named == TRIES_TO_LOG_IN)):
                raise SetupError(f"{self.name} does not let {user} in: is ${PASSWORD_VARIABLE} right?")
            elif found == 3 and named and password is not None:
                self._say(password.encode())
            elif found == 4:
                self._say(user.encode())
                self._logged_in = True
                named += 1
            elif found == 5 and self._listens():
                return
            else:
                self._say(b"")

    def machine(self) -> str:
        """What the machine says that it is (`uname -m`), and an end of what disturbs."""
        return self._ask(ASK, rb"~iommu is (\S+)\.")[1].decode()

    def put(self, program: bytes) -> None:
        """Have a program there, $G for what is run later: it is sent unless it has been. SetupError."""
        digest = hashlib.sha256(program).hexdigest()
        found = self._ask(LOOK.format(name=digest[:16], digest=digest), rb"~iommu (kept|packed|plain)\.")[1]
        if found == b"kept":
            return
        self._send_file(gzip.compress(program, mtime=0) if found == b"packed" else program)
        unpack = "gzip -dc" if found == b"packed" else "cat"
        if self._ask(UNPACK.format(unpack=unpack, digest=digest), rb"~iommu (kept|differs)\.")[1] != b"kept":
            raise SetupError(f"{self.name}: the agent did not arrive as it was sent")

    def start(self, session: bytes, patience: int, command: str) -> None:
        """Run a line of shell with the program for its stdin and stdout, see guest/agent/line.c."""
        words = {"session": session.decode(), "patience": patience, "command": _base64(command.encode()).decode()}
        self._ask(START.format(**words), rb"~iommu start\.|~" + session + rb"[DEANP]")

    def _listens(self) -> bool:
        """Have the shell take lines that are checked."""
        script = LOOP + ("exit\n" if self._logged_in else "")
        coded = _base64(script.encode())
        digest = hashlib.sha256(coded).hexdigest().encode()
        test = b'S=%s;test "$(printf %%s $S|sha256sum)" = "%s  -"&&eval "$(printf %%s $S|base64 -d)"' % (coded, digest)
        self._say(test)
        if self._expect([rb"~iommu loop"], within=len(test) * 4 / self._rate) == 0:
            return True
        # Whatever has become of it: half a quotation, or a loop whose greeting was lost.
        self._send(b"\x03")
        return False

    def _send_file(self, data: bytes) -> None:
        at = number = 0
        while at < len(data):
            # Without padding but in the last, so that characters tell the bytes.
            coded = _base64(data[at : at + self._block // 3 * 3])
            pattern = rb"~iommu got %d (\d+) (\d+) %d \1 \2\." % (number, number)
            answer = self._answer(b"%d" % number, coded, pattern, cut=True)
            if answer is None:
                continue  # it seems that it was not taken, and is cut finer
            if int(answer[1]) == number:
                raise SetupError(f"{self.name} takes no file: is the place for temporary files full?")
            number, at = int(answer[1]), int(answer[2]) // 4 * 3
            self._block = min(self._block + SMALLEST // 4, BLOCK)

    def _ask(self, script: str, pattern: bytes) -> re.Match[bytes]:
        answer = self._answer(b"run", _base64(script.encode()), pattern)
        assert answer is not None
        return answer

    def _answer(self, kind: bytes, coded: bytes, pattern: bytes, cut: bool = False) -> re.Match[bytes] | None:
        """Say it until it is answered; None when it seems that it was not taken, and it may be ``cut`` finer."""
        text = kind + b" " + coded
        text = hashlib.sha256(text).hexdigest().encode() + b" " + text
        said = text
        for _ in range(TRIES):
            self._say(said)
            found = self._expect([pattern, _NO], within=len(said) * 2 / self._rate)
            if found == 0:
                return cast("re.Match[bytes]", self._console.match)
            if found == 1 and cut and self._block > SMALLEST:
                self._block = max(self._block // 2, SMALLEST)
                return None
            # Without an answer the end of the line may be lost: it is ended first, and the answer is no.
            said = text if found == 1 else b""
        raise SetupError(f"{self.name} does not understand what it is told{self._last()}")

    def _say(self, text: bytes) -> None:
        self._send(text + b"\n")

    def _send(self, data: bytes) -> None:
        deadline = Deadline(LOGIN_TIMEOUT + len(data) / self._rate)
        left = memoryview(data)
        while left:
            if not ready(self._line, select.POLLOUT, deadline):
                raise SetupError(f"{self.name} takes no characters: is the device the right one?")
            try:
                left = left[os.write(self._line, left) :]
            except BlockingIOError:
                pass
            except OSError as error:
                raise SetupError(f"{self.name}: {error.strerror}") from error

    def _expect(self, patterns: list[bytes], within: float = 0.0) -> int | None:
        """The number of the pattern that comes first, None when none does."""
        try:
            found = self._console.expect([*patterns, pexpect.TIMEOUT], timeout=ANSWER + within)
        except pexpect.EOF as error:
            raise SetupError(f"{self.name}: the line is closed") from error
        except OSError as error:
            raise SetupError(f"{self.name}: {error.strerror}") from error
        return found if found < len(patterns) else None

    def _last(self) -> str:
        """What came last, for a message."""
        before = self._console.before
        text = before.decode("utf-8", "replace").strip() if isinstance(before, bytes) else ""
        return f"; it says: {text[-300:]!r}" if text else ", it says nothing"


def _base64(data: bytes) -> bytes:
    return base64.b64encode(data)
