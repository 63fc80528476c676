# SPDX-License-Identifier: GPL-2.0-only
"""For each key of a scenario file two files that differ in it alone, for test_scenario_keys.py."""

from __future__ import annotations

MAP = "map: {iova: 0x1000000, pa: 0x41000000, size: 16K, prot: rw}"
HELD = "hold: {at: leaf-loaded, iova: 0x1000000}"
MEANWHILE = "meanwhile: [{wait: grace-period, blocked: true}]"
RACE = f"do: [{{{MAP}}}], race: {{{HELD}, {MEANWHILE}}}"
STORM = "iova: 0x40000000, cell: 4K, cells: 8"
TWO = "domains: {a: {}, b: {}}"
BOTH = f"{TWO}, do: [{{{MAP[:-1]}, domain: a}}}},"
LINE = "0x0000000001000000-0x0000000001003fff 0x0000000041000000 16K 0 4K"


def case(body: str = f"do: [{{{MAP}}}]", name: str = "x", stages: str = "stages: [s1], ", rules: str = "RNG-1") -> str:
    return f"suite: s\ncases:\n  - {{name: {name}, rules: [{rules}], {stages}{body}}}\n"


def steps(*words: str, more: str = "") -> str:
    return case(f"{more}do: [{{{MAP}}}, {', '.join(f'{{{word}}}' for word in words)}]")


def defaults(words: str, body: str = f"do: [{{{MAP}}}]") -> str:
    return f"suite: s\ndefaults: {{{words}}}\ncases:\n  - {{name: x, rules: [RNG-1], {body}}}\n"


def race(words: str, hold: str = HELD, meanwhile: str = MEANWHILE, body: str = f"do: [{{{MAP}}}]") -> str:
    return case(f"{body}, race: {{{', '.join(filter(None, [words, hold, meanwhile]))}}}")


def storm(words: str = "", body: str = f"do: [{{{MAP}}}]") -> str:
    return case(f"{body}, storm: {{{', '.join(filter(None, [STORM, words]))}}}")


def mapped(words: str, step: str = "map") -> str:
    given = {"iova": "0x2000000", "pa": "0x42000000", "size": "2M", "prot": "rw"}
    more = dict(word.split(": ") for word in words.split(", ") if word)
    return case(f"do: [{{{MAP}}}, {{{step}: {{{', '.join(f'{k}: {v}' for k, v in (given | more).items())}}}}}]")


def unmapped(words: str) -> str:
    given = {"iova": "0x1000000", "size": "16K"} | dict(word.split(": ") for word in words.split(", ") if word)
    return steps(f"unmap: {{{', '.join(f'{k}: {v}' for k, v in given.items())}}}")


def two(words: str, domains: str = "a: {}, b: {}") -> str:
    return case(f"domains: {{{domains}}}, do: [{words}]")


A, B = (f"{{{MAP[:-1]}, domain: {name}}}}}" for name in "ab")
EDU = "attach: {devices: [edu0]}"
SCRATCH = "map: {iova: 0x5c000000, pa: 0x5c000000, size: 4K, prot: rw}"
DMA = f"{{{SCRATCH}}}, {{{EDU}}}"


def dma(words: str) -> str:
    return case(f"do: [{DMA}, {{dma: {{{words}}}}}]")


def probe(words: str) -> str:
    return case(f"do: [{{{SCRATCH}}}, {{attach: {{devices: [edu0, edu1]}}}}, {{probe: {{{words}}}}}]")


#: (where a key stands, the key) -> a file without and one with it, or with two values of it
CHANGES: dict[tuple[str, str], tuple[str, str]] = {
    ("a scenario file", "suite"): (case(), case().replace("suite: s", "suite: t")),
    ("a scenario file", "defaults"): (case(stages="formats: [amdv1], "), defaults("formats: [amdv1], timeout: 3s")),
    ("a scenario file", "cases"): (case(), case() + case(name="y").partition("cases:\n")[2]),
    ("defaults", "machines"): (defaults("stages: [s1]"), defaults("stages: [s1], machines: [smmuv3topo]")),
    ("defaults", "stages"): (defaults("stages: [s1]"), defaults("stages: [s2]")),
    ("defaults", "formats"): (defaults("stages: [s1]"), defaults("stages: [s1], formats: [amdv1]")),
    ("defaults", "tables"): (defaults("stages: [s1]"), defaults("stages: [s1], tables: [{format: amdv1}]")),
    ("defaults", "granule"): (defaults("stages: [s1], granule: 4K"), defaults("stages: [s1], granule: 64K")),
    ("defaults", "timeout"): (defaults("stages: [s1]"), defaults("stages: [s1], timeout: 3s")),
    ("defaults", "kernel"): (defaults("stages: [s1]"), defaults("stages: [s1], kernel: debug")),
    ("a case", "name"): (case(), case(name="y")),
    ("a case", "rules"): (case(), case(rules="RNG-1, RNG-2")),
    ("a case", "do"): (case(), steps("check: {}", "unmap: {iova: 0x1000000, size: 4K}")),
    ("a case", "dump"): (
        case(f'dump: "{LINE} rw---- *", do: [{{{MAP}}}]'),
        case(f'dump: "{LINE} rwx--- *", do: [{{{MAP}}}]'),
    ),
    ("a case", "domains"): (case(), two(f"{A}, {B}")),
    ("a case", "needs"): (case(), case(f"needs: {{config: [KASAN]}}, do: [{{{MAP}}}]")),
    ("a case", "fresh"): (case(), case(f"fresh: true, do: [{{{MAP}}}]")),
    ("a case", "repeat"): (case(), case(f"repeat: 3, do: [{{{MAP}}}]")),
    ("a case", "table"): (case(), case(stages="table: {format: amdv1}, ")),
    ("a case", "machines"): (case(), case(f"machines: [smmuv3topo], do: [{{{MAP}}}]")),
    ("a case", "stages"): (case(), case(stages="stages: [s2], ")),
    ("a case", "formats"): (case(), case(stages="formats: [amdv1], ")),
    ("a case", "tables"): (case(), case(stages="tables: [{format: amdv1}], ")),
    ("a case", "granule"): (case(), case(f"granule: 64K, do: [{{{MAP}}}]")),
    ("a case", "timeout"): (case(), case(f"timeout: 3s, do: [{{{MAP}}}]")),
    ("a case", "kernel"): (case(), case(f"kernel: debug, do: [{{{MAP}}}]")),
    ("a case", "race"): (case(), case(RACE)),
    ("a case", "storm"): (case(), storm()),
    ("a case", "stays"): (
        case(f"{RACE}, stays: [{{iova: 0x1000000, size: 4K}}]"),
        case(f"{RACE}, stays: [{{iova: 0x3000000, size: 4K}}]"),
    ),
    ("a case", "never"): (
        case(f"{RACE}, never: [{{iova: 0x3000000, size: 4K}}]"),
        case(f"{RACE}, never: [{{iova: 0x1000000, size: 4K}}]"),
    ),
    ("needs", "devices"): (case(), case(f"needs: {{devices: [edu6]}}, do: [{{{MAP}}}]")),
    ("needs", "dialect"): (case(), case(f"needs: {{dialect: io_ptdump_small}}, do: [{{{MAP}}}]")),
    ("needs", "machine"): (case(), case(f"needs: {{machine: smmuv3topo}}, do: [{{{MAP}}}]")),
    ("needs", "config"): (case(), case(f"needs: {{config: [MEMCG, KASAN]}}, do: [{{{MAP}}}]")),
    ("repeat", "times"): (case(), case(f"repeat: {{times: 3}}, do: [{{{MAP}}}]")),
    ("repeat", "fresh"): (
        case(f"repeat: {{times: 3}}, do: [{{{MAP}}}]"),
        case(f"repeat: {{times: 3, fresh: true}}, do: [{{{MAP}}}]"),
    ),
    ("domain", "stage"): (two(A), two(A, "a: {stage: s2}, b: {}")),
    ("domain", "table"): (two(A), two(A, "a: {table: {format: amdv1}}, b: {}")),
    ("domain", "format"): (two(A), two(A, "a: {format: amdv1}, b: {}")),
    ("domain", "device"): (two(A), two(A, "a: {device: edu1}, b: {}")),
    ("table", "format"): (case(stages="table: {format: amdv1}, "), case(stages="table: {format: vtdss}, ")),
    ("table", "granule"): (
        case(stages="table: {format: arm_64_lpae_s1}, "),
        case(stages="table: {format: arm_64_lpae_s1, granule: 16K}, "),
    ),
    ("table", "ias"): (
        case(stages="table: {format: arm_64_lpae_s1}, "),
        case(stages="table: {format: arm_64_lpae_s1, ias: 40}, "),
    ),
    ("table", "oas"): (
        case(stages="table: {format: arm_64_lpae_s1}, "),
        case(stages="table: {format: arm_64_lpae_s1, oas: 40}, "),
    ),
    ("table", "levels"): (case(stages="table: {format: amdv1}, "), case(stages="table: {format: amdv1, levels: 4}, ")),
    ("table", "vasz"): (case(stages="table: {format: vtdss}, "), case(stages="table: {format: vtdss, vasz: 39}, ")),
    ("table", "oasz"): (case(stages="table: {format: vtdss}, "), case(stages="table: {format: vtdss, oasz: 40}, ")),
    ("table", "quirks"): (
        case(stages="table: {format: arm_64_lpae_s1}, "),
        case(stages="table: {format: arm_64_lpae_s1, quirks: [hd]}, "),
    ),
    ("table", "features"): (
        case(stages="table: {format: amdv1}, "),
        case(stages="table: {format: amdv1, features: [force_coherence]}, "),
    ),
    ("table", "id"): (case(stages="table: {format: amdv1}, "), case(stages="table: {format: amdv1, id: mine}, ")),
    ("map", "iova"): (mapped(""), mapped("iova: 0x3000000")),
    ("map", "pa"): (mapped(""), mapped("pa: 0x43000000")),
    ("map", "size"): (mapped(""), mapped("size: 4K")),
    ("map", "prot"): (mapped(""), mapped("prot: rwx")),
    ("map", "leaf"): (mapped(""), mapped("leaf: 4K")),
    ("map", "domain"): (two(A), two(B)),
    ("map", "count"): (mapped(""), mapped("count: 3")),
    ("map", "istep"): (mapped("count: 3"), mapped("count: 3, istep: 4M")),
    ("map", "pstep"): (mapped("count: 3"), mapped("count: 3, pstep: 4M")),
    ("map", "errno"): (mapped("iova: 0x1000000, size: 4K"), mapped("iova: 0x1000000, size: 4K, errno: EEXIST")),
    ("remap", "iova"): (
        mapped("iova: 0x1000000, size: 16K", "remap"),
        mapped("iova: 0x1001000, size: 12K", "remap").replace("size: 12K", "size: 8K"),
    ),
    ("remap", "pa"): (
        mapped("iova: 0x1000000, size: 16K", "remap"),
        mapped("iova: 0x1000000, size: 16K, pa: 0x43000000", "remap"),
    ),
    ("remap", "size"): (
        mapped("iova: 0x1000000, size: 16K", "remap"),
        mapped("iova: 0x1000000, size: 8K", "remap"),
    ),
    ("remap", "prot"): (
        mapped("iova: 0x1000000, size: 16K", "remap"),
        mapped("iova: 0x1000000, size: 16K, prot: rwx", "remap"),
    ),
    ("remap", "leaf"): (
        mapped("iova: 0x1000000, size: 16K", "remap"),
        mapped("iova: 0x1000000, size: 16K, leaf: 4K", "remap"),
    ),
    ("remap", "domain"): (two(f"{A}, {B}, re{A[1:]}".replace("re", "{re")), two(f"{A}, {B}, {{re{B[1:]}")),
    ("unmap", "iova"): (unmapped("size: 4K"), unmapped("size: 4K, iova: 0x1001000")),
    ("unmap", "size"): (unmapped(""), unmapped("size: 4K")),
    ("unmap", "leaf"): (unmapped(""), unmapped("leaf: 4K")),
    ("unmap", "count"): (unmapped("size: 4K"), unmapped("size: 4K, count: 2")),
    ("unmap", "istep"): (unmapped("size: 4K, count: 2"), unmapped("size: 4K, count: 2, istep: 8K")),
    ("unmap", "domain"): (
        two(f"{A}, {B}, {{unmap: {{iova: 0x1000000, size: 16K, domain: a}}}}"),
        two(f"{A}, {B}, {{unmap: {{iova: 0x1000000, size: 16K, domain: b}}}}"),
    ),
    ("unmap", "errno"): (unmapped("iova: 0x3000000"), unmapped("iova: 0x3000000, errno: ENOENT")),
    ("create", "domain"): (two(f"{B}, {{create: {{domain: a}}}}"), two(f"{A}, {{create: {{domain: b}}}}")),
    ("create", "errno"): (
        two(f"{A}, {{create: {{domain: b}}}}"),
        two(f"{A}, {{create: {{domain: b, errno: ENOMEM}}}}"),
    ),
    ("destroy", "domain"): (two(f"{A}, {B}, {{destroy: {{domain: a}}}}"), two(f"{A}, {B}, {{destroy: {{domain: b}}}}")),
    ("destroy", "errno"): (steps("destroy: {}"), steps("destroy: {errno: EBUSY}")),
    ("attach", "domain"): (
        two(f"{A}, {{attach: {{domain: a, devices: [edu0]}}}}"),
        two(f"{A}, {{attach: {{domain: b, devices: [edu0]}}}}"),
    ),
    ("attach", "devices"): (steps("attach: {devices: [edu0]}"), steps("attach: {devices: [edu1]}")),
    ("attach", "errno"): (steps("attach: {devices: [edu0]}"), steps("attach: {devices: [edu0], errno: EBUSY}")),
    ("detach", "devices"): (
        steps("attach: {devices: [edu0, edu1]}", "detach: {devices: [edu0]}"),
        steps("attach: {devices: [edu0, edu1]}", "detach: {devices: [edu1]}"),
    ),
    ("detach", "errno"): (
        steps("attach: {devices: [edu0]}", "detach: {devices: [edu1]}"),
        steps("attach: {devices: [edu0]}", "detach: {devices: [edu1], errno: ENODEV}"),
    ),
    ("check", "domain"): (
        two(f"{A}, {B}, {{check: {{domain: a}}}}, {{unmap: {{iova: 0x1000000, size: 4K, domain: a}}}}"),
        two(f"{A}, {B}, {{check: {{domain: b}}}}, {{unmap: {{iova: 0x1000000, size: 4K, domain: a}}}}"),
    ),
    ("check", "stream"): (steps("check: {}"), steps("check: {stream: edu0}")),
    ("check", "config"): (steps("check: {stream: edu0}"), steps("check: {stream: edu0, config: ABORT}")),
    ("check", "present"): (steps("check: {stream: edu0}"), steps("check: {stream: edu0, present: false}")),
    ("read", "file"): (
        steps("read: {file: stats, how: {chunk: 10}}"),
        steps("read: {file: entries, how: {chunk: 10}}"),
    ),
    ("read", "how"): (steps("read: {file: stats, how: {chunk: 10}}"), steps("read: {file: stats, how: {chunk: 11}}")),
    ("read", "same"): (
        steps("read: {file: stats, how: {chunk: 10}}"),
        steps("read: {file: stats, how: {chunk: 10}, same: false}"),
    ),
    ("read", "domain"): (
        two(f"{A}, {{read: {{file: stats, how: {{chunk: 10}}, domain: a}}}}"),
        two(f"{A}, {{read: {{file: stats, how: {{chunk: 10}}, domain: b}}}}"),
    ),
    **{
        ("how", key): tuple(steps(f"read: {{file: stats, how: {{{words}}}}}") for words in pair)  # type: ignore[misc]
        for key, pair in {
            "chunk": ("chunk: 10", "chunk: 11"),
            "pread": ("pread: [1], size: 9", "pread: [2], size: 9"),
            "size": ("pread: [1], size: 9", "pread: [1], size: 8"),
            "lseek": ("lseek: [1]", "lseek: [2]"),
            "parallel": ("parallel: 2", "parallel: 3"),
        }.items()
    },
    ("expect", "domain"): (
        two(f"{A}, {{expect: {{domain: a, exists: true}}}}"),
        two(f"{A}, {{expect: {{domain: b, exists: true}}}}"),
    ),
    ("expect", "file"): (steps("expect: {file: stats, open: ok}"), steps("expect: {file: info, open: ok}")),
    ("expect", "path"): (steps("expect: {path: /a, open: ok}"), steps("expect: {path: /b, open: ok}")),
    ("expect", "exists"): (steps("expect: {file: stats, exists: true}"), steps("expect: {file: stats, exists: false}")),
    ("expect", "mode"): (steps("expect: {file: stats, mode: 400}"), steps("expect: {file: stats, mode: 444}")),
    ("expect", "open"): (steps("expect: {file: stats, open: ok}"), steps("expect: {file: stats, open: EACCES}")),
    ("expect", "read"): (steps("expect: {file: stats, read: ok}"), steps("expect: {file: stats, read: EIO}")),
    ("expect", "write"): (steps("expect: {file: stats, write: EINVAL}"), steps("expect: {file: stats, write: ENOENT}")),
    ("expect", "ioctl"): (steps("expect: {file: stats, ioctl: ok}"), steps("expect: {file: stats, ioctl: ENOENT}")),
    ("dma", "device"): (dma("device: edu0, write: 0x5c000000"), dma("device: edu1, write: 0x5c000000")),
    ("dma", "read"): (dma("device: edu0, read: 0x5c000000"), dma("device: edu0, read: 0x5c000100")),
    ("dma", "write"): (dma("device: edu0, read: 0x5c000000"), dma("device: edu0, write: 0x5c000000")),
    ("dma", "size"): (dma("device: edu0, read: 0x5c000000"), dma("device: edu0, read: 0x5c000000, size: 8")),
    ("dma", "expect"): (
        dma("device: edu0, read: 0x5d000000, expect: F_TRANSLATION"),
        dma("device: edu0, read: 0x5d000000"),
    ),
    ("probe", "device"): (probe("device: edu0, write: 0x5c000000"), probe("device: edu1, write: 0x5c000000")),
    ("probe", "devices"): (probe("devices: [edu0], write: 0x5c000000"), probe("devices: [edu1], write: 0x5c000000")),
    ("probe", "read"): (
        probe("device: edu0, read: 0x5c000000, to: 0x5c000800"),
        probe("device: edu0, read: 0x5c000100, to: 0x5c000800"),
    ),
    ("probe", "write"): (probe("device: edu0, write: 0x5c000000"), probe("device: edu0, write: 0x5c000100")),
    ("probe", "to"): (
        probe("device: edu0, read: 0x5c000000, to: 0x5c000800"),
        probe("device: edu0, read: 0x5c000000, to: 0x5c000900"),
    ),
    ("probe", "size"): (
        probe("device: edu0, write: 0x5c000000"),
        probe("device: edu0, write: 0x5c000000, size: 16"),
    ),
    ("probe", "expect"): (
        probe("device: edu0, write: 0x5c000000"),
        probe("device: edu0, write: 0x5c000000, expect: F_TRANSLATION"),
    ),
    ("replace", "device"): (
        two(f"{A}, {{attach: {{domain: a, devices: [edu0, edu1]}}}}, {{replace: {{device: edu0, domain: b}}}}"),
        two(f"{A}, {{attach: {{domain: a, devices: [edu0, edu1]}}}}, {{replace: {{device: edu1, domain: b}}}}"),
    ),
    ("replace", "domain"): (
        two(f"{A}, {{attach: {{domain: a, devices: [edu0]}}}}, {{replace: {{device: edu0, domain: a}}}}"),
        two(f"{A}, {{attach: {{domain: a, devices: [edu0]}}}}, {{replace: {{device: edu0, domain: b}}}}"),
    ),
    ("replace", "errno"): (
        two(f"{A}, {{attach: {{domain: a, devices: [edu0]}}}}, {{replace: {{device: edu0, domain: b}}}}"),
        two(f"{A}, {{attach: {{domain: a, devices: [edu0]}}}}, {{replace: {{device: edu0, domain: b, errno: EBUSY}}}}"),
    ),
    ("plug", "device"): (steps("plug: {device: edu0}"), steps("plug: {device: edu1}")),
    ("unplug", "device"): (steps("unplug: {device: edu0}"), steps("unplug: {device: edu1}")),
    ("race", "domain"): (race("domain: a", body=f"{BOTH[:-1]}, {B}]"), race("domain: b", body=f"{BOTH[:-1]}, {B}]")),
    ("race", "reader"): (race(""), race("reader: {file: entries}")),
    ("race", "hold"): (race(""), race("", hold="hold: {at: leaf-loaded, iova: 0x1001000}")),
    ("race", "meanwhile"): (
        race(""),
        race("", meanwhile="meanwhile: [{unmap: {iova: 0x1000000, size: 4K}}]"),
    ),
    ("reader", "file"): (race(""), race("reader: {file: entries}")),
    ("reader", "size"): (race(""), race("reader: {size: 100}")),
    ("reader", "cpu"): (race("reader: {cpu: 1}"), race("reader: {cpu: 0}")),
    ("hold", "at"): (race(""), race("", hold="hold: {at: table-loaded, iova: 0x1000000}")),
    ("hold", "level"): (
        race("", hold="hold: {at: table-loaded, iova: 0x1000000}"),
        race("", hold="hold: {at: table-loaded, iova: 0x1000000, level: 2}"),
    ),
    ("hold", "iova"): (race(""), race("", hold="hold: {at: leaf-loaded, iova: 0x1001000}")),
    ("hold", "timeout"): (race(""), race("", hold=f"{HELD[:-1]}, timeout: 3s}}")),
    ("hold", "how"): (race(""), race("", hold=f"{HELD[:-1]}, how: frozen}}")),
    ("wait", "wait"): (
        race("", meanwhile="meanwhile: []"),
        race("", meanwhile=MEANWHILE),
    ),
    ("wait", "blocked"): (race(""), race("", meanwhile="meanwhile: [{wait: grace-period}]")),
    **{
        ("storm", key): (storm(f"{key}: {one}"), storm(f"{key}: {other}"))
        for key, one, other in (
            ("gap", "8K", "16K"),
            ("mappers", 2, 3),
            ("operations", 4000, 100),
            ("seed", 0, 7),
            ("readers", "[{file: stats}]", "[{file: entries}]"),
            ("pause", "1ms", "2ms"),
        )
    },
    ("storm", "domain"): (storm("domain: a", f"{BOTH[:-1]}, {B}]"), storm("domain: b", f"{BOTH[:-1]}, {B}]")),
    ("storm", "iova"): (storm(), storm().replace("0x40000000", "0x50000000")),
    ("storm", "cell"): (storm(), storm().replace("cell: 4K", "cell: 8K")),
    ("storm", "cells"): (storm(), storm().replace("cells: 8", "cells: 9")),
    ("a reader of a storm", "file"): (storm("readers: [{file: stats}]"), storm("readers: [{file: entries}]")),
    ("a reader of a storm", "size"): (storm("readers: [{file: stats}]"), storm("readers: [{file: stats, size: 9}]")),
    ("a stretch of IOVAs", "iova"): (
        case(f"{RACE}, stays: [{{iova: 0x1000000, size: 4K}}]"),
        case(f"{RACE}, stays: [{{iova: 0x3000000, size: 4K}}]"),
    ),
    ("a stretch of IOVAs", "size"): (
        case(f"{RACE}, stays: [{{iova: 0x1000000, size: 4K}}]"),
        case(f"{RACE}, stays: [{{iova: 0x1000000, size: 32K}}]"),
    ),
}

CHANGES["a step meanwhile", "blocked"] = (
    race("", meanwhile="meanwhile: [{unmap: {iova: 0x1000000, size: 4K}}]"),
    race("", meanwhile="meanwhile: [{unmap: {iova: 0x1000000, size: 4K, blocked: true}}]"),
)
