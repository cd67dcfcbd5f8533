"""The measuring part of hack/bench: runs the programs in turns, prints the table, writes JSON, SVG and Markdown."""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

PEERS = ("runc", "crun", "youki")
OPERATIONS = ("run", "create", "start", "delete", "create+start+delete", "exec", "state", "kill")
FLOOR = "floor"
TRUE = "true"


class Failure(Exception):
    """A program under measurement did not do its work."""


class Stopwatch:
    """Runs commands and gives what they cost, through the static C program of that name."""

    def __init__(self, work):
        self.program = work / "stopwatch"
        self.report = work / "report"
        self.errors = work / "errors"

    def __call__(self, *command):
        # Files, not pipes: a created container keeps its output open long after the command has ended.
        with open(self.report, "w+b") as report, open(self.errors, "w+b") as errors:
            argv = map(str, (self.program, *command))
            subprocess.run(["/bin/sh", "-c", 'exec "$@" 3>&1 1>/dev/null', "sh", *argv],
                           stdin=subprocess.DEVNULL, stdout=report, stderr=errors, timeout=60, check=False)
            report.seek(0)
            errors.seek(0)
            fields, message = report.read().split(), errors.read().decode(errors="replace").strip()
        if len(fields) != 5 or fields[4] != b"0":
            raise Failure(f"{' '.join(map(str, command))}: status {fields[4:]}: {message}")
        wall, user, system, rss = (int(field) for field in fields[:4])
        return {"wall": wall / 1e6, "user": user / 1e3, "sys": system / 1e3, "rss": rss}


class Runtime:
    """One OCI runtime with state and bundles of its own."""

    def __init__(self, name, path, work, state, stopwatch):
        self.name = name
        self.path = path
        self.watch = stopwatch
        self.root = state / name
        self.count = 0
        self.samples = {operation: [] for operation in OPERATIONS}
        self.bundles = {program: self.make_bundle(work, program) for program in ("true", "pause")}
        self.resident = None

    def make_bundle(self, work, program, memory=None):
        bundle = work / f"bundle-{program}-{memory or ''}"
        if not (bundle / "config.json").exists():
            (bundle / "rootfs/bin").mkdir(parents=True, exist_ok=True)
            shutil.copy(work / program, bundle / "rootfs/bin" / program)
            shutil.copy(work / "true", bundle / "rootfs/bin/true")
            config = json.loads((work / "spec/config.json").read_text())
            config["process"]["terminal"] = False
            config["process"]["args"] = [f"/bin/{program}"]
            if memory:
                config["linux"].setdefault("resources", {})["memory"] = {"limit": memory}
            (bundle / "config.json").write_text(json.dumps(config))
        return bundle

    def command(self, *arguments):
        return (self.path, "--root", self.root, *arguments)

    def new_id(self):
        self.count += 1
        return f"bench-{self.name}-{os.getpid()}-{self.count}"

    def measure(self, operation, *arguments):
        self.samples[operation].append(self.watch(*self.command(*arguments)))

    def round(self):
        """One turn: every operation once."""
        self.measure("run", "run", "--bundle", self.bundles["true"], self.new_id())
        self.life()
        self.measure("exec", "exec", self.resident, "/bin/true")
        self.measure("state", "state", self.resident)
        # SIGCONT changes nothing in a process that is not stopped.
        self.measure("kill", "kill", self.resident, "CONT")

    def life(self):
        container = self.new_id()
        pid_file = self.root.with_suffix(".pid")
        create = ("create", "--bundle", self.bundles["true"], "--pid-file", pid_file, container)
        self.measure("create", *create)
        self.measure("start", "start", container)
        wait_for_end(int(pid_file.read_text()))
        self.measure("delete", "delete", container)
        last = [self.samples[operation][-1] for operation in ("create", "start", "delete")]
        total = {key: sum(sample[key] for sample in last) for key in ("wall", "user", "sys")}
        self.samples["create+start+delete"].append(total | {"rss": max(sample["rss"] for sample in last)})

    def start_resident(self):
        """The container that exec, state and kill are measured on."""
        self.resident = self.new_id()
        pid_file = self.root.with_suffix(".resident")
        bundle = self.bundles["pause"]
        self.watch(*self.command("create", "--bundle", bundle, "--pid-file", pid_file, self.resident))
        self.watch(*self.command("start", self.resident))

    def stop_resident(self):
        if self.resident:
            subprocess.run(self.command("delete", "--force", self.resident), stderr=subprocess.DEVNULL, check=False)

    def system_calls(self, work, *arguments):
        """How many system calls a command and its children make, by strace -c -f."""
        summary = work / "strace"
        command = ["strace", "-c", "-f", "-o", str(summary), *map(str, self.command(*arguments))]
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
        total = re.search(r"^100\.00\s.*?(\d+)\s+(?:\d+\s+)?total$", summary.read_text(), re.MULTILINE)
        return int(total.group(1)) if done.returncode == 0 and total else None

    def starts_with_limit(self, work, kilobytes, times):
        """Whether a container with this memory limit runs every time."""
        bundle = self.make_bundle(work, "true", kilobytes * 1024)
        for _ in range(times):
            container = self.new_id()
            run = subprocess.run(self.command("run", "--bundle", bundle, container), capture_output=True,
                                 stdin=subprocess.DEVNULL, check=False)
            if run.returncode != 0:
                subprocess.run(self.command("delete", "--force", container), capture_output=True, check=False)
                return False
        return True

    def least_limit(self, work):
        """The least memory limit in KB, in steps of 16, at which 100 of 100 containers run; None if there is none."""
        low, high = 0, 64 * 1024
        if not self.starts_with_limit(work, high, 3):
            return None
        while high - low > 16:
            middle = (low + high) // 32 * 16
            low, high = (low, middle) if self.starts_with_limit(work, middle, 10) else (middle, high)
        while not self.starts_with_limit(work, high, 100):
            high += 16
        return high


def wait_for_end(pid):
    """Until a process has ended; a zombie has."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (OSError, IndexError):
            return
        if state in "ZX":
            return
        time.sleep(0.0005)
    raise Failure(f"process {pid} does not end")


def find_runtimes(work, state, davit, stopwatch):
    found = [Runtime("davit", davit, work, state, stopwatch)]
    for name in PEERS:
        path = shutil.which(name)
        if path:
            found.append(Runtime(name, os.path.realpath(path), work, state, stopwatch))
    usable = []
    for runtime in found:
        try:
            runtime.round_trip = stopwatch(*runtime.command("run", "--bundle", runtime.bundles["true"], runtime.new_id()))
            runtime.start_resident()
            usable.append(runtime)
        except Failure as failure:
            if runtime.name == "davit":
                raise
            print(f"left out: {runtime.name}: {failure}")
    return usable


def median(samples, key="wall"):
    return statistics.median(sample[key] for sample in samples)


def cgroup2_mount():
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[fields.index("-") + 1] == "cgroup2":
            return fields[4]
    return None


def measure_all(runtimes, floor, work, rounds, stopwatch):
    samples = {FLOOR: [], TRUE: []}
    turns = [*runtimes, FLOOR, TRUE]
    for number in range(rounds):
        # Another order each time, so that nobody always comes after the same neighbour.
        for turn in turns[number % len(turns):] + turns[:number % len(turns)]:
            if turn == FLOOR:
                if floor:
                    samples[FLOOR].append(stopwatch(*floor))
            elif turn == TRUE:
                samples[TRUE].append(stopwatch(work / "true"))
            else:
                turn.round()
    return samples


def file_system(path):
    return subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, text=True, check=True).stdout.strip()


def version(path):
    out = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    return out.splitlines()[0] if out else "?"


def results(runtimes, samples, arguments, work):
    data = {
        "view": arguments.view, "rounds": arguments.rounds, "kernel": platform.release(),
        "machine": platform.machine(), "state": file_system(arguments.state), "cpus": os.cpu_count(), "programs": {},
        "true_ms": round(median(samples[TRUE]), 3),
        "floor_ms": round(median(samples[FLOOR]), 3) if samples[FLOOR] else None,
    }
    for runtime in runtimes:
        entry = {"version": version(runtime.path), "size": os.stat(runtime.path).st_size}
        for operation in OPERATIONS:
            cost = runtime.samples[operation]
            entry[operation] = {
                "ms": round(median(cost), 3), "min_ms": round(min(sample["wall"] for sample in cost), 3),
                "cpu_ms": round(median(cost, "user") + median(cost, "sys"), 3),
                "rss_kb": max(sample["rss"] for sample in cost),
            }
        entry["calls"] = {
            "run": runtime.system_calls(work, "run", "--bundle", runtime.bundles["true"], runtime.new_id()),
            "exec": runtime.system_calls(work, "exec", runtime.resident, "/bin/true"),
            "state": runtime.system_calls(work, "state", runtime.resident),
        }
        if arguments.limit:
            entry["least_memory_kb"] = runtime.least_limit(work)
        data["programs"][runtime.name] = entry
    return data


def table(data):
    """The results as rows of a Markdown table, which is also what the terminal shows."""
    programs = data["programs"]
    names = list(programs)
    rows = [["", *names, "floor", *(f"davit/{name}" for name in names[1:]), "davit/floor"]]

    def row(label, values, yardstick=None, unit=""):
        cells = [label] + [f"{value:g}{unit}" if value is not None else "–" for value in values]
        cells.append(f"{yardstick:g}{unit}" if yardstick is not None else "–")
        for other in [*values[1:], yardstick]:
            known = other not in (None, 0) and values[0] is not None
            cells.append(f"{values[0] / other:.2f}" if known else "–")
        rows.append(cells)

    for operation in OPERATIONS:
        # What looks something up or signals has no kernel work to speak of: a static program that does nothing.
        yardstick = data["floor_ms"] if operation == "run" else None
        yardstick = data["true_ms"] if operation in ("state", "kill", "delete") else yardstick
        row(f"{operation}, ms", [round(programs[name][operation]["ms"], 2) for name in names],
            yardstick and round(yardstick, 2))
    for operation in ("run", "exec", "state"):
        row(f"{operation}, CPU ms", [round(programs[name][operation]["cpu_ms"], 2) for name in names])
    row("create, peak RSS in KB", [programs[name]["create"]["rss_kb"] for name in names])
    for operation in ("run", "exec", "state"):
        row(f"{operation}, system calls", [programs[name]["calls"][operation] for name in names])
    if any("least_memory_kb" in programs[name] for name in names):
        row("least memory limit, KB", [programs[name].get("least_memory_kb") for name in names])
    row("size of the program, KB", [programs[name]["size"] // 1024 for name in names])
    return rows


def markdown(rows):
    lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows[1:]])


def aligned(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) if number == 0 else cell.rjust(width)
                  for number, (cell, width) in enumerate(zip(row, widths))) for row in rows)


COLOURS = {"davit": "#2a7f62", "runc": "#8d99ae", "crun": "#c9a227", "youki": "#b56576", "floor": "#3d405b"}


def chart(data):
    """A bar per program and operation; each operation has a scale of its own, since state is far below run."""
    bars, y = [], 40
    for operation in ("run", "create+start+delete", "exec", "state", "kill"):
        values = {name: entry[operation]["ms"] for name, entry in data["programs"].items()}
        if operation == "run" and data["floor_ms"]:
            values["floor"] = data["floor_ms"]
        bars.append(f'<text x="10" y="{y + 12}" font-weight="bold">{operation}</text>')
        y += 20
        for name, value in values.items():
            width = max(1, 430 * value / max(values.values()))
            bars.append(f'<text x="70" y="{y + 11}" text-anchor="end">{name}</text>')
            bars.append(f'<rect x="80" y="{y}" width="{width:.0f}" height="14" fill="{COLOURS.get(name, "#999")}"/>')
            bars.append(f'<text x="{86 + width:.0f}" y="{y + 11}">{value:.2f} ms</text>')
            y += 18
        y += 12
    title = f"Median wall time, {data['rounds']} rounds, Linux {data['kernel']}, {data['cpus']} CPUs"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="620" height="{y}" font-family="sans-serif" '
            f'font-size="12"><rect width="100%" height="100%" fill="white"/>'
            f'<text x="10" y="20" font-size="14">{title}</text>{"".join(bars)}</svg>\n')


def write(directory, data, rows):
    (directory / "bench.json").write_text(json.dumps(data, indent=1) + "\n")
    (directory / "bench.svg").write_text(chart(data))
    page = directory / "bench.md"
    begin, end = "<!-- table -->", "<!-- end of table -->"
    text = page.read_text() if page.exists() else f"# Measurements\n\n![chart](bench.svg)\n\n{begin}\n{end}\n"
    about = (f"Linux {data['kernel']}, {data['machine']}, {data['cpus']} CPUs, {data['rounds']} rounds, cgroups: "
             f"{data['view']}, state on {data['state']}. ")
    about += "; ".join(f"{name}: {entry['version']}" for name, entry in data["programs"].items())
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    page.write_text(f"{before}{begin}\n{about}\n\n{markdown(rows)}\n{end}{after}")


def remove_cgroups():
    for base, folders, _ in os.walk("/sys/fs/cgroup", topdown=False):
        name = os.path.basename(base)
        if name.startswith("bench-") and f"-{os.getpid()}-" in name:
            try:
                os.rmdir(base)
            except OSError as error:
                print(f"left: {base}: {error}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--davit", type=Path, required=True)
    parser.add_argument("--view", required=True)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--limit", action="store_true")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    # Interrupted, clean up like at the end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work, stopwatch = arguments.work, Stopwatch(arguments.work)
    (work / "spec").mkdir()
    subprocess.run([arguments.davit, "spec", "--bundle", work / "spec"], check=True)
    runtimes = []
    try:
        runtimes = find_runtimes(work, arguments.state, arguments.davit.resolve(), stopwatch)
        cgroup2 = cgroup2_mount()
        rootfs = runtimes[0].bundles["true"] / "rootfs"
        floor = (work / "floor", rootfs, "1", "/bin/true", cgroup2) if cgroup2 else None
        samples = measure_all(runtimes, floor, work, arguments.rounds, stopwatch)
        data = results(runtimes, samples, arguments, work)
    except Failure as failure:
        sys.exit(f"bench: {failure}")
    finally:
        for runtime in runtimes:
            runtime.stop_resident()
        remove_cgroups()
    rows = table(data)
    print(aligned(rows))
    if arguments.write:
        write(arguments.write, data, rows)


if __name__ == "__main__":
    main()
