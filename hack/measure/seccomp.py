"""The measuring part of hack/bench-seccomp: what a profile costs with davit, runc and crun."""

import argparse
import json
import os
import re
import shutil
import statistics
import struct
import subprocess
import time
from pathlib import Path

KINDS = ("allowed", "checked", "denied-by-argument", "denied")
ROWS = [
    ("instructions of the program", "length", ""),
    ("generate: from the profile to the program", "generate", "µs"),
    ("load: seccomp(2)", "load", "µs"),
    ("whole cost of the profile in `run`", "run", "ms"),
    ("instructions per call, average of all numbers", "average", ""),
    ("instructions for personality, allowed by argument", "steps", ""),
    ("getppid, allowed", "allowed", "ns"),
    ("personality, allowed by argument", "checked", "ns"),
    ("personality, refused by argument", "denied-by-argument", "ns"),
    ("acct, refused", "denied", "ns"),
]
BEGIN, END = "<!-- begin bench -->", "<!-- end bench -->"


def steps(instructions, number, argument):
    """How many instructions of a program an x86_64 call takes; argument is its first."""
    words = {0: number, 4: 0xC000003E, 16: argument & 0xFFFFFFFF, 20: argument >> 32}
    at = accumulator = 0
    for count in range(1, len(instructions) + 1):
        code, yes, no, operand = instructions[at]
        tests = {0x15: accumulator == operand, 0x25: accumulator > operand, 0x35: accumulator >= operand,
                 0x45: bool(accumulator & operand)}
        at += 1
        if code == 0x20:
            accumulator = words.get(operand, 0)
        elif code == 0x54:
            accumulator &= operand
        elif code == 0x05:
            at += operand
        elif code == 0x06:
            return count
        else:
            at += yes if tests[code] else no
    raise SystemExit("a program that does not end")


# libseccomp's numbers: seccomp_init(3), seccomp_rule_add(3), seccomp_arch_add(3).
ACTIONS = {"SCMP_ACT_KILL": 0, "SCMP_ACT_KILL_THREAD": 0, "SCMP_ACT_KILL_PROCESS": 0x80000000, "SCMP_ACT_TRAP": 0x30000,
           "SCMP_ACT_ERRNO": 0x50000, "SCMP_ACT_TRACE": 0x7FF00000, "SCMP_ACT_NOTIFY": 0x7FC00000,
           "SCMP_ACT_LOG": 0x7FFC0000, "SCMP_ACT_ALLOW": 0x7FFF0000}
OPERATORS = {"NE": 1, "LT": 2, "LE": 3, "EQ": 4, "GE": 5, "GT": 6, "MASKED_EQ": 7}
ARCHITECTURES = {"X86_64": 0xC000003E, "X86": 0x40000003, "X32": 0x4000003E, "AARCH64": 0xC00000B7, "ARM": 0x40000028}


def library_calls(profile, tree):
    """The calls of libseccomp that make a profile's program, as hack/measure/libseccomp.c reads them."""
    def action(rule, name, errno):
        value = ACTIONS[rule[name]]
        return value | (rule.get(errno, 1) if value in (0x50000, 0x7FF00000) else 0)

    default = action(profile, "defaultAction", "defaultErrnoRet")
    lines = [f"default {default}"]
    # runc asks for a tree, crun does not.
    lines += ["tree 2"] if tree else []
    lines += [f"arch {ARCHITECTURES[name.removeprefix('SCMP_ARCH_')]}" for name in profile.get("architectures", [])]
    for rule in profile["syscalls"]:
        word = action(rule, "action", "errnoRet")
        if word == default:
            continue
        arguments = [(at["index"], OPERATORS[at["op"].removeprefix("SCMP_CMP_")], at["value"], at.get("valueTwo", 0))
                     for at in rule.get("args") or []]
        # An index that is there twice makes each condition a rule of its own.
        repeated = len({at[0] for at in arguments}) < len(arguments)
        for name in rule["names"]:
            for conditions in [[at] for at in arguments] if repeated else [arguments]:
                lines.append(" ".join(str(word) for word in ["rule", word, name, *(n for at in conditions for n in at)]))
    return "\n".join(lines) + "\n"


def library(path):
    """The libseccomp that a program has: beside it in an unpacked tree, else the system's."""
    found = sorted(Path(path).resolve().parents[2].glob("usr/lib/*/libseccomp.so.2"))
    return str(found[0]) if found else "libseccomp.so.2"


class Runtime:
    """One runtime with bundles with and without the profile."""

    def __init__(self, name, path, work, profile):
        self.name, self.path, self.work, self.profile = name, path, work, profile
        self.count = 0
        self.data = {}
        self.walls = {"with": [], "without": []}
        self.costs = {kind: [] for kind in KINDS}
        self.unfiltered = {kind: [] for kind in KINDS}
        for kind in ("with", "without"):
            bundle = work / f"{name}-{kind}"
            (bundle / "rootfs").mkdir(parents=True)
            for directory in ("proc", "dev", "sys", "tmp"):
                (bundle / "rootfs" / directory).mkdir()
            shutil.copy(work / "seccomp", bundle / "rootfs" / "seccomp")
            config = json.loads((work / "config.json").read_text())
            if kind == "with":
                config["linux"]["seccomp"] = profile
            config["process"]["terminal"] = False
            (bundle / "config.json").write_text(json.dumps(config))

    def run(self, kind, args, wrapper=()):
        """Runs the program in a container; returns its output and the wall time in milliseconds."""
        bundle = self.work / f"{self.name}-{kind}"
        config = json.loads((bundle / "config.json").read_text())
        if config["process"]["args"] != args:
            config["process"]["args"] = args
            (bundle / "config.json").write_text(json.dumps(config))
        self.count += 1
        command = [*wrapper, self.path, "--root", self.work / f"state-{self.name}", "run", "-b", bundle,
                   f"bench-seccomp-{self.name}-{self.count}"]
        start = time.monotonic()
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
        wall = (time.monotonic() - start) * 1e3
        if done.returncode != 0:
            raise SystemExit(f"{self.name}: {done.stderr.decode()}")
        return done.stdout.decode(), wall

    def round(self):
        """One turn."""
        # The first container after a pause waits 10 ms for a grace period of cgroup_threadgroup_rwsem, whatever it is.
        self.run("without", ["/seccomp", "calls", "0"])
        for kind in self.walls:
            self.walls[kind].append(self.run(kind, ["/seccomp", "calls", "0"])[1])
        for kind, costs in (("with", self.costs), ("without", self.unfiltered)):
            for line in self.run(kind, ["/seccomp", "calls", "40"])[0].splitlines():
                name, value = line.split()
                costs[name].append(float(value))

    def program(self):
        """The program that it loads, as strace shows it: for `seccomp load`."""
        trace = self.work / f"{self.name}.trace"
        self.run("with", ["/seccomp", "calls", "0"],
                 ["strace", "-f", "-v", "-e", "trace=seccomp", "-o", trace])
        found = [re.search(r"filter=\[(.*)\]\}\)", line) for line in trace.read_text().splitlines()]
        codes = [match.group(1) for match in found if match]
        names = {"BPF_LD": 0, "BPF_LDX": 1, "BPF_ALU": 4, "BPF_JMP": 5, "BPF_RET": 6, "BPF_W": 0, "BPF_ABS": 0x20,
                 "BPF_AND": 0x50, "BPF_JA": 0, "BPF_JEQ": 0x10, "BPF_JGT": 0x20, "BPF_JGE": 0x30, "BPF_JSET": 0x40,
                 "BPF_K": 0, "SECCOMP_RET_KILL_THREAD": 0, "SECCOMP_RET_KILL_PROCESS": 0x80000000,
                 "SECCOMP_RET_TRAP": 0x30000, "SECCOMP_RET_ERRNO": 0x50000, "SECCOMP_RET_TRACE": 0x7FF00000,
                 "SECCOMP_RET_LOG": 0x7FFC0000, "SECCOMP_RET_ALLOW": 0x7FFF0000,
                 "BPF_STMT": lambda code, k: (code, 0, 0, k), "BPF_JUMP": lambda code, k, jt, jf: (code, jt, jf, k)}
        if not codes:
            raise SystemExit(f"{self.name}: strace shows no filter")
        # The words are strace's own output about our own runtime, made of the names above.
        instructions = eval(f"[{codes[-1]}]", {"__builtins__": {}}, names)  # pylint: disable=eval-used
        file = self.work / f"{self.name}.bpf"
        file.write_bytes(b"".join(struct.pack("=HBBI", *one) for one in instructions))
        return file, instructions

    def generate(self):
        """Nanoseconds from the parsed profile to the program, the least of many rounds. In runc and crun that is
        libseccomp's work; the least that they pay for it, called from C."""
        if self.name == "davit":
            file = self.work / "profile.json"
            file.write_text(json.dumps(self.profile))
            command = [self.path, "seccomp", "--json", "--rounds", "2000", "compile", file]
            return json.loads(subprocess.check_output(command))["leastNanoseconds"]
        command = [self.work / "libseccomp", library(self.path), "50"]
        calls = library_calls(self.profile, tree=self.name == "runc")
        return float(subprocess.check_output(command, input=calls, text=True))

    def finish(self):
        """The numbers for the table."""
        file, instructions = self.program()
        nanoseconds = subprocess.check_output([self.work / "seccomp", "load", file, "200"])
        self.data = {kind: min(values) for kind, values in self.costs.items()}
        self.data["length"] = len(instructions)
        self.data["steps"] = steps(instructions, 135, 0xFFFFFFFF)
        numbers = range(470)
        self.data["average"] = statistics.mean(steps(instructions, number, 0) for number in numbers)
        self.data["load"] = float(nanoseconds) / 1e3
        self.data["generate"] = self.generate() / 1e3
        self.data["run"] = min(self.walls["with"]) - min(self.walls["without"])
        return self.data


def table(runtimes):
    """Rows of Markdown."""
    rows = ["| | " + " | ".join(runtime.name for runtime in runtimes) + " | no filter |",
            "|---" * (len(runtimes) + 2) + "|"]
    for label, key, unit in ROWS:
        digits = 0 if key in ("length", "steps") else 2 if unit == "ms" else 1
        cells = [f"{runtime.data[key]:,.{digits}f} {unit}".strip() for runtime in runtimes]
        plain = min(min(runtime.unfiltered[key]) for runtime in runtimes) if key in KINDS else None
        cells.append("" if plain is None else f"{plain:.1f} ns")
        rows.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def chart(runtimes):
    """Bars per row, as parts of the longest."""
    bars, y = [], 20
    for label, key, unit in ROWS:
        y += 26
        bars.append(f'<text x="10" y="{y}" font-size="12">{label.replace("`", "")}</text>')
        longest = max(runtime.data[key] for runtime in runtimes) or 1
        for runtime, colour in zip(runtimes, ("#2a7", "#888", "#bbb")):
            y += 16
            width = max(1, 300 * max(0, runtime.data[key]) / longest)
            bars.append(f'<rect x="90" y="{y - 11}" width="{width:.0f}" height="12" fill="{colour}"/>'
                        f'<text x="10" y="{y}" font-size="11">{runtime.name}</text>'
                        f'<text x="{95 + width:.0f}" y="{y}" font-size="11">{runtime.data[key]:,.4g} {unit}</text>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="560" height="{y + 14}" font-family="sans-serif">'
            f'{"".join(bars)}</svg>\n')


def main():
    """Measures and prints; with --write also into docs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--davit", required=True)
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    profile = json.loads(arguments.profile.read_text())
    peers = [("davit", arguments.davit)]
    peers += [(name, path) for name in ("runc", "crun") if (path := shutil.which(name))]
    runtimes = [Runtime(name, path, arguments.work, profile) for name, path in peers]
    for _ in range(arguments.rounds):
        for runtime in runtimes:
            runtime.round()
    for runtime in runtimes:
        runtime.finish()
    rows = table(runtimes)
    versions = [subprocess.check_output([path, "--version"], text=True).splitlines()[0] for _, path in peers]
    note = f"{'; '.join(versions)}; Linux {os.uname().release}, {arguments.rounds} rounds, {arguments.profile.name}"
    print(f"{rows}\n\n{note}")
    if arguments.write:
        page = arguments.write / "seccomp.md"
        text = page.read_text()
        head, tail = text[:text.index(BEGIN)], text[text.index(END):]
        page.write_text(f"{head}{BEGIN}\n{rows}\n\n{note}\n{tail}")
        (arguments.write / "seccomp.svg").write_text(chart(runtimes))


main()
