# SPDX-License-Identifier: GPL-2.0-only
"""The addresses at which iova_to_phys() is asked, and the judgement of its answers (TAB-7)."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from pytest_iommu import formats
from pytest_iommu.check.witnesses.translations import Translations
from pytest_iommu.core.model import Prot
from pytest_iommu.core.outcomes import Verdict
from pytest_iommu.core.protocol import Result
from pytest_iommu.oracle import Expected, TableModel
from pytest_iommu.oracle.lookups import RANGES, addresses, answer

RW = Prot.from_letters("rw")


def table(format: str = "arm_64_lpae_s1", *mappings: tuple[int, int, int], **parameters: int) -> Expected:
    model = TableModel(formats.configure(format, **parameters))
    for iova, oa, size in mappings:
        model.map(iova, oa, size, RW)
    return model.snapshot()


def asked(translations: Translations) -> list[list[int]]:
    """The IOVAs of every command."""
    lines = translations.ops[0].data.decode().splitlines()
    return [[int(word, 0) for word in line.split()[2:]] for line in lines]


def results(translations: Translations, lookup: Callable[[int], int]) -> list[Result]:
    """What the module answers if the kernel's iova_to_phys() is ``lookup``."""
    rows = (",".join(f"0x{lookup(iova):x}" for iova in line) for line in asked(translations))
    text = "".join(f"{number} ok pa={row}\n" for number, row in enumerate(rows, 1))
    return [Result(0), Result(len(text), text.encode())]


def test_first_middle_and_last_byte_and_the_holes_beside_them() -> None:
    expected = table("arm_64_lpae_s1", (0x31230000, 0x41230000, 0x4000))
    assert addresses(expected) == [0x3122FFFF, 0x31230000, 0x312325A5, 0x31233FFF, 0x31234000]
    assert [answer(expected.ranges, iova) for iova in addresses(expected)] == [
        0,
        0x41230000,
        0x412325A5,
        0x41233FFF,
        0,
    ]


def test_an_empty_table_is_asked_as_well() -> None:
    expected = table()
    assert addresses(expected) == [0, 0x5A5, (1 << 48) - 1]
    assert {answer(expected.ranges, iova) for iova in addresses(expected)} == {0}


def test_nothing_outside_the_aperture_is_asked() -> None:
    whole = table("arm_64_lpae_s1", (0, 0, 1 << 30), ((1 << 48) - 4096, 0x1000, 4096))
    assert addresses(whole)[0] == 0
    assert addresses(whole)[-1] == (1 << 48) - 1


def test_both_halves_of_a_table_that_extends_the_sign() -> None:
    expected = table("x86_64", (0, 0x1000, 4096), ((1 << 64) - 4096, 0x5000, 4096))
    found = addresses(expected)
    assert found[0] == 0
    # The last byte of all is left out, docs/findings.md says why.
    assert found[-1] == (1 << 64) - 2
    assert not [iova for iova in found if 1 << 47 <= iova < (1 << 64) - (1 << 47)]
    assert answer(expected.ranges, (1 << 64) - 1) == 0x5FFF


def test_many_ranges_are_sampled() -> None:
    expected = table("amdv1", *((number << 20, 0x1000 + (number << 21), 4096) for number in range(1000)))
    assert len(addresses(expected)) <= 5 * RANGES
    assert {0, 999 << 20} <= set(addresses(expected))


@pytest.mark.parametrize(
    ("lookup", "wrong"),
    [
        (lambda pa: pa, ""),
        (lambda pa: pa & ~0xFFF, "iova_to_phys(0x312325a5) is 0x41232000, but memory says 0x412325a5"),
        (lambda pa: pa or 0x41230000, "iova_to_phys(0x3122ffff) is 0x41230000, but memory says 0 (not mapped)"),
        (lambda pa: 0, "iova_to_phys(0x31230000) is 0 (not mapped), but memory says 0x41230000"),
    ],
    ids=["right", "without-the-offset", "a-hole-translates", "not-found"],
)
def test_answers_are_judged(lookup: Callable[[int], int], wrong: str) -> None:
    expected = table("arm_64_lpae_s1", (0x31230000, 0x41230000, 0x4000))
    translations = Translations("d", expected)
    failures = translations.check(
        results(translations, lambda iova: lookup(answer(expected.ranges, iova))), expected.ranges, True
    )
    assert [failure.rules for failure in failures] == ([("TAB-7",)] if wrong else [])
    if wrong:
        assert failures[0].verdict is Verdict.LOOKUP
        assert wrong in failures[0].message


def test_a_refused_command_is_no_answer() -> None:
    expected = table()
    translations = Translations("d", expected)
    text = b"1 error EBUSY a storm is over d, calm it first\n"
    (failure,) = translations.check([Result(0), Result(len(text), text)], expected.ranges, True)
    assert failure.verdict is Verdict.COMMAND
    assert not failure.rules


def test_a_kernel_that_is_locked_down_is_not_asked() -> None:
    """The control file cannot be opened, and the status is that of an earlier batch."""
    translations = Translations("d", table())
    stale = [Result(-errno.EPERM), Result(13, b"1 ok id=3 x=1\n")]
    assert translations.check(stale, (), False) == []


def test_an_answer_without_addresses_is_a_failure() -> None:
    translations = Translations("d", table())
    (problem,) = translations.check([Result(1), Result(5, b"1 ok\n")], (), True)
    assert problem.verdict is Verdict.COMMAND
    assert "0 answers to 3 questions" in problem.message


@pytest.mark.parametrize("text", ["1 ok\n", "1 error EINVAL unknown command translate\n"])
def test_a_module_without_the_command_is_asked_where_nobody_reads_memory(text: str) -> None:
    """A target of a plugin may come with a module of its own; with the guest's memory it is an error."""
    expected = table()
    translations = Translations("d", expected)
    answered = [Result(0), Result(len(text), text.encode())]
    assert translations.check(answered, expected.ranges, seen=False) == []
    (wrong,) = translations.check(answered, expected.ranges, seen=True)
    assert wrong.verdict is Verdict.COMMAND
