"""Runs TAP programs of the OCI runtime-tools suite against a runtime; see hack/oci-conformance."""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

KNOWN = Path(__file__).parent / "known"
# Numbers (linux/capability.h) of the capabilities that the list may name.
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_SYS_RESOURCE": 24}


def lacks(condition):
    """Whether this machine is one where an entry of the list with this condition holds."""
    kind, _, name = condition.partition(":")
    if kind == "suite":
        return True
    if kind == "file":
        return not os.path.exists(name)
    if kind == "controller":
        return not Path("/sys/fs/cgroup", name).is_dir()
    if kind == "lsm":
        loaded = Path("/sys/kernel/security/lsm")
        return not loaded.exists() or name not in loaded.read_text().strip().split(",")
    if kind == "cap":
        effective = re.search(r"^CapEff:\s*(\w+)", Path("/proc/self/status").read_text(), re.M)
        return not int(effective.group(1), 16) >> CAPABILITIES[name] & 1
    raise SystemExit(f"{KNOWN}: no condition {condition!r}")


class Known:
    """The failures that cannot be helped."""

    def __init__(self, file):
        self.entries = []
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            entry, _, reason = line.partition("  # ")
            words = entry.split(None, 2)
            if len(words) != 3 or not reason:
                raise SystemExit(f"{file}:{number}: wanted: program condition pattern  # reason")
            program, condition, pattern = words
            self.entries.append((program, lacks(condition), re.compile(pattern.strip()), reason.strip()))

    def reason(self, program, text):
        """Why an assertion cannot pass here, when it is one of those."""
        for name, holds, pattern, reason in self.entries:
            if name == program and holds and pattern.fullmatch(text):
                return reason
        return None

    def stale(self, program, assertions):
        """Entries for a program that hold here and of which nothing failed: the list is behind."""
        failed = [one["text"] for one in assertions if one["verdict"] == "known"]
        return [
            pattern.pattern
            for name, holds, pattern, _ in self.entries
            if name == program and holds and not any(pattern.fullmatch(text) for text in failed)
        ]


ASSERTION = re.compile(r"(not )?ok\b(?:\s+\d+)?\s*(?:-\s*)?(.*)")
DIRECTIVE = re.compile(r"(.*?)\s*#\s*(skip|todo)\S*\s*(.*)", re.I)
PLAN = re.compile(r"1\.\.(\d+)\s*(?:#.*)?")


class Tap:
    """The assertions of a program's output, which is one TAP stream or several, one after the other."""

    def __init__(self, text):
        self.assertions = []
        self.broken = []
        self.planned = None
        self.ran = 0
        for line in text.splitlines():
            if self.line(line):
                break
        self.close()

    def line(self, line):
        """Takes one line; true when the program gave up with it."""
        if line.startswith("TAP version"):
            self.close()
        elif line.startswith("Bail out!"):
            self.broken.append("bails out: " + line[9:].strip())
            self.planned = None
            return True
        elif line.startswith("1.."):
            plan = PLAN.fullmatch(line.strip())
            if plan is None:
                self.broken.append(f"malformed plan {line.strip()!r}")
            elif self.planned is not None:
                self.broken.append("a second plan")
            else:
                self.planned = int(plan.group(1))
        elif found := ASSERTION.fullmatch(line.rstrip()):
            self.ran += 1
            self.assertions.append(assertion(found.group(1) is None, found.group(2)))
        return False

    def close(self):
        """Ends a stream: its plan must have come true."""
        if self.planned is not None and self.planned != self.ran:
            self.broken.append(f"planned {self.planned} assertions, ran {self.ran}")
        elif self.planned is None and self.ran and not self.broken:
            self.broken.append("no plan")
        self.planned, self.ran = None, 0


def assertion(passed, text):
    directive = DIRECTIVE.fullmatch(text)
    if directive is None:
        return {"verdict": "ok" if passed else "failed", "text": text}
    text, word, reason = directive.groups()
    return {"verdict": word.lower(), "text": text or reason, "reason": reason}


class Suite:
    """The programs of a directory and what one run of them needs."""

    def __init__(self, options, scratch):
        self.dir = options.dir.resolve()
        self.timeout = options.timeout
        self.state = scratch / "state"
        self.temp = scratch / "tmp"
        self.state.mkdir()
        self.runtime = [str(options.runtime), "--root", str(self.state)]
        self.script = scratch / options.runtime.name
        self.script.write_text(f'#!/bin/sh\nexec {shlex.join(self.runtime)} "$@"\n')
        self.script.chmod(0o755)

    def programs(self, wanted):
        found = {p.stem: p for p in sorted(self.dir.rglob("*.t")) if p.is_file() and os.access(p, os.X_OK)}
        missing = [name for name in wanted if name not in found]
        if missing or not found:
            raise SystemExit(f"{self.dir} has no program {', '.join(missing) or '*.t'}: build the suite as README says")
        return {name: found[name] for name in (wanted or found)}

    def run(self, program):
        """Output and errors of a program, and what became of it when that was no plain success."""
        self.temp.mkdir()
        env = dict(os.environ, RUNTIME=str(self.script), TMPDIR=str(self.temp))
        # Into files: a container that outlives the program would keep a pipe open.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = subprocess.Popen([str(program)], cwd=self.dir, env=env, stdin=subprocess.DEVNULL, stdout=out,
                                     stderr=err, start_new_session=True)
            try:
                code = child.wait(self.timeout)
                ending = None if code == 0 else (
                    f"exits with {code}" if code > 0 else f"killed by {signal.Signals(-code).name}")
            except subprocess.TimeoutExpired:
                ending = f"timed out after {self.timeout} s"
            finally:
                try:
                    os.killpg(child.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                child.wait()
                self.clean()
            out.seek(0)
            err.seek(0)
            return out.read().decode(errors="replace"), err.read().decode(errors="replace"), ending

    def clean(self):
        """Removes what the program left: containers and bundles."""
        for container in sorted(self.state.iterdir()):
            subprocess.run([*self.runtime, "delete", "--force", container.name], stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, check=False, timeout=60)
        shutil.rmtree(self.temp, ignore_errors=True)


def judge(name, output, errors, ending, known):
    """A program's verdict: passed, known (fails where it cannot pass) or failed."""
    tap = Tap(output)
    assertions = tap.assertions
    if not output.strip() and not ending:
        ending = "says nothing"
    for what in tap.broken + ([ending] if ending else []):
        assertions.append({"verdict": "failed", "text": what, "stderr": errors.strip()[-500:]})
    for one in assertions:
        reason = known.reason(name, one["text"]) if one["verdict"] == "failed" else None
        if reason:
            one.update(verdict="known", reason=reason)
    verdicts = [one["verdict"] for one in assertions]
    verdict = next((v for v in ("failed", "known") if v in verdicts), "passed")
    return {"program": name, "verdict": verdict, "assertions": assertions, "stale": known.stale(name, assertions)}


def count(assertions):
    kinds = ("ok", "failed", "known", "skip", "todo")
    return {kind: sum(one["verdict"] == kind for one in assertions) for kind in kinds}


def words(counts):
    return ", ".join(f"{number} {kind}" for kind, number in counts.items() if number) or "no assertions"


def show(result):
    print(f"{result['verdict']:<7} {result['program']}: {words(count(result['assertions']))}")
    for one in result["assertions"]:
        if one["verdict"] == "failed":
            print(f"          failed: {one['text']}")
            for line in one.get("stderr", "").splitlines()[-3:]:
                print(f"            {line}")
        elif one["verdict"] == "known":
            print(f"          known: {one['text']} ({one['reason']})")
    for pattern in result["stale"]:
        print(f"          listed as known, but nothing failed: {pattern}")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(prog="oci-conformance")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--runtime", type=Path, required=True)
    parser.add_argument("--timeout", type=int, default=90, help="seconds for one program")
    parser.add_argument("--known", type=Path, default=KNOWN, help="another list of known failures")
    parser.add_argument("dir", type=Path)
    parser.add_argument("programs", nargs="*")
    options = parser.parse_intermixed_args()
    options.runtime = options.runtime.absolute()
    if not os.access(options.runtime, os.X_OK):
        raise SystemExit(f"{options.runtime} is not there: run hack/build first")
    known = Known(options.known)
    results = []
    with tempfile.TemporaryDirectory(prefix="davit-conformance-") as scratch:
        # Root of a user namespace must get through to the bundles.
        os.chmod(scratch, 0o755)
        suite = Suite(options, Path(scratch))
        for name, program in suite.programs(options.programs).items():
            results.append(judge(name, *suite.run(program), known))
            if not options.json:
                show(results[-1])
    total = count([one for result in results for one in result["assertions"]])
    verdicts = {v: sum(r["verdict"] == v for r in results) for v in ("passed", "known", "failed")}
    if options.json:
        print(json.dumps({"programs": results, "total": {"programs": verdicts, "assertions": total}}, indent=2))
    else:
        print(f"{len(results)} programs: {words(verdicts)}; assertions: {words(total)}")
    return 1 if verdicts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
