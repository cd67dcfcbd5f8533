"""The measuring part of hack/bench-shim: two shims, driven over their sockets by a raw ttrpc client."""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import threading
import time
from pathlib import Path

TASK = "containerd.task.v3.Task"
# Both shims serve v3; the one of containerd 2.1 serves nothing else.
BEGIN, END = "<!-- shim table -->", "<!-- end of shim table -->"


def field(number, value):
    """One protobuf field: an int, a string or bytes, or a list of them."""
    if isinstance(value, list):
        return b"".join(field(number, one) for one in value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value) if value else b""
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data if data else b""


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def fields(data):
    """The fields of a message by number; the last of each."""
    found, at = {}, 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = number()
        if key & 7 == 0:
            found[key >> 3] = number()
        else:
            size = number()
            found[key >> 3] = data[at:at + size]
            at += size
    return found


class Client:
    """A connection to a shim; one call at a time."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(address.removeprefix("unix://"))
        self.stream = 1

    def call(self, method, *message):
        payload = b"".join(field(number, value) for number, value in message)
        request = field(1, TASK) + field(2, method) + field(3, payload)
        self.socket.sendall(struct.pack(">IIBB", len(request), self.stream, 1, 0) + request)
        self.stream += 2
        length, _, _, _ = struct.unpack(">IIBB", self.take(10))
        reply = fields(self.take(length))
        status = fields(reply.get(1, b""))
        if status.get(1, 0):
            raise RuntimeError(f"{method}: {status.get(2, b'').decode()}")
        return fields(reply.get(2, b""))

    def shutdown(self, name):
        try:
            self.call("Shutdown", (1, name))
        except (RuntimeError, OSError):
            # Go's shim may be gone before it has answered.
            pass

    def take(self, size):
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise RuntimeError("the shim closed the connection")
            data += piece
        return data


class Events(threading.Thread):
    """containerd's event service: answers and forgets."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(64)

    def run(self):
        while True:
            peer, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    @staticmethod
    def serve(peer):
        data = peer.makefile("rb")
        try:
            while header := data.read(10):
                length, stream, _, _ = struct.unpack(">IIBB", header)
                data.read(length)
                # An empty Status is "OK".
                reply = varint(1 << 3 | 2) + varint(0)
                peer.sendall(struct.pack(">IIBB", len(reply), stream, 2, 0) + reply)
        except OSError:
            # A shim that has ended does not wait for its last answer.
            return


class Shim:
    """One shim under measurement with bundles of its own."""

    def __init__(self, name, program, work, path):
        self.name, self.program, self.path = name, program, path
        self.dir = work / name
        self.count = 0
        self.namespace = f"bench-{os.getpid()}-{name}"
        self.dir.mkdir()
        self.image = self.dir / "image"
        for sub in ("bin", "proc", "dev", "tmp"):
            (self.image / sub).mkdir(parents=True)
        shutil.copy("/bin/busybox", self.image / "bin/busybox")
        for applet in ("sh", "sleep", "true", "dd"):
            (self.image / "bin" / applet).symlink_to("busybox")
        self.events = self.dir / "c.sock.ttrpc"
        Events(self.events).start()
        self.times = {}
        self.logs = []

    def bundle(self, args, group=None):
        self.count += 1
        name = f"c{self.count}"
        bundle = self.dir / name
        (bundle / "rootfs").mkdir(parents=True)
        config = {
            "ociVersion": "1.0.2",
            "process": {"user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/bin"], "cwd": "/"},
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            ],
            "linux": {
                "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
                "cgroupsPath": f"/{self.namespace}/{name}",
            },
        }
        if group:
            config["annotations"] = {"io.kubernetes.cri.sandbox-id": group}
        (bundle / "config.json").write_text(json.dumps(config))
        os.mkfifo(bundle / "log")
        # containerd holds it open for reading.
        self.logs.append(os.open(bundle / "log", os.O_RDWR | os.O_NONBLOCK))
        return name

    def run(self, name, action):
        env = dict(os.environ, TTRPC_ADDRESS=str(self.events), MAX_SHIM_VERSION="2", PATH=self.path)
        words = [self.program, "-namespace", self.namespace, "-address", str(self.dir / "c.sock"),
                 "-publish-binary", "/bin/true", "-id", name, "-bundle", str(self.dir / name), action]
        return subprocess.run(words, cwd=self.dir / name, env=env, input=b"", capture_output=True, check=True,
                              timeout=60).stdout

    def start(self, name):
        return Client(json.loads(self.run(name, "start"))["address"])

    def create(self, client, name, stdout="", stderr=""):
        mount = field(1, "bind") + field(2, str(self.image)) + field(4, ["rbind", "rw"])
        root = field(7, str(self.dir / "state"))
        options = field(1, "containerd.runc.v1.Options") + field(2, root)
        client.call("Create", (1, name), (2, str(self.dir / name)), (3, [mount]), (6, stdout), (7, stderr), (10, options))

    def timed(self, what, work):
        begun = time.perf_counter()
        result = work()
        self.times.setdefault(what, []).append((time.perf_counter() - begun) * 1000)
        return result

    def exec(self, client, name, exec_id):
        process = json.dumps({"args": ["/bin/true"], "cwd": "/", "env": ["PATH=/bin"],
                              "user": {"uid": 0, "gid": 0}})
        spec = field(1, "spec") + field(2, process)
        client.call("Exec", (1, name), (2, exec_id), (7, spec))
        client.call("Start", (1, name), (2, exec_id))
        client.call("Wait", (1, name), (2, exec_id))

    def round(self):
        """One life with each step timed."""
        name = self.bundle(["/bin/sleep", "1000"])
        nothing = ["/bin/busybox", "true"]
        self.timed("true", lambda: subprocess.run(nothing, input=b"", capture_output=True, check=True))
        client = self.timed("start", lambda: self.start(name))

        def create_and_start():
            self.create(client, name)
            client.call("Start", (1, name))

        self.timed("create+start", create_and_start)
        self.timed("exec", lambda: self.exec(client, name, "e"))
        client.call("Delete", (1, name), (2, "e"))

        def kill():
            client.call("Kill", (1, name), (3, 9))
            client.call("Wait", (1, name))

        self.timed("kill", kill)
        self.timed("delete", lambda: client.call("Delete", (1, name)))
        client.shutdown(name)

    def end(self, client, names):
        for name in reversed(names):
            client.call("Kill", (1, name), (3, 9))
            client.call("Wait", (1, name))
            client.call("Delete", (1, name))
        client.shutdown(names[0])


def memory(pid):
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    total = {key: int(value) for key, value in re.findall(r"^(\w+): +(\d+) kB", text, re.MULTILINE)}
    status = Path(f"/proc/{pid}/status").read_text()
    return {"rss": total["Rss"], "private": total["Private_Clean"] + total["Private_Dirty"], "pss": total["Pss"],
            "anonymous": int(re.search(r"RssAnon:\s+(\d+)", status).group(1)),
            "threads": int(re.search(r"Threads:\s+(\d+)", status).group(1))}


def processor(pid):
    """Seconds of a process and of its children that have ended."""
    fields_of = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return sum(map(int, fields_of[11:15])) / os.sysconf("SC_CLK_TCK")


def idle_calls(pid, seconds):
    trace = subprocess.run(["timeout", "-s", "INT", str(seconds), "strace", "-f", "-qq", "-p", str(pid)],
                           capture_output=True, text=True, check=False).stderr
    return len([line for line in trace.splitlines() if "(" in line and "resumed" not in line
                and "restart_syscall" not in line and "epoll_wait" not in line and "epoll_pwait" not in line])


def pods(shim, size):
    """One shim with so many containers: what it takes."""
    names, client = [], None
    for _ in range(size):
        name = shim.bundle(["/bin/sleep", "1000"], group=f"group{size}")
        connection = shim.start(name)
        client = client or connection
        shim.create(connection, name)
        connection.call("Start", (1, name))
        names.append(name)
    pid = client.call("Connect", (1, names[0]))[1]
    time.sleep(1)
    found = memory(pid)
    if size == 1:
        found["idle"] = idle_calls(pid, 20)
    shim.end(client, names)
    return found


def exec_cost(shim, count):
    """Processor seconds of the shim and of all it starts for a thousand execs."""
    name = shim.bundle(["/bin/sleep", "1000"])
    client = shim.start(name)
    shim.create(client, name)
    client.call("Start", (1, name))
    pid = client.call("Connect", (1, name))[1]
    before = processor(pid)
    for n in range(count):
        shim.exec(client, name, f"e{n}")
        client.call("Delete", (1, name), (2, f"e{n}"))
    cost = processor(pid) - before
    shim.end(client, [name])
    return cost * 1000 / count


def output_cost(shim, gigabytes):
    """Processor seconds of the shim for a gigabyte of output."""
    name = shim.bundle(["/bin/dd", "if=/dev/zero", "bs=1M", f"count={gigabytes * 1024}"])
    fifos = [str(shim.dir / f"{name}-{end}") for end in ("out", "err")]
    for fifo in fifos:
        os.mkfifo(fifo)
    readers = [subprocess.Popen(["sh", "-c", 'exec cat >/dev/null <"$0"', fifo]) for fifo in fifos]
    client = shim.start(name)
    shim.create(client, name, *fifos)
    pid = client.call("Connect", (1, name))[1]
    ticks = lambda: sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[11:13]))
    before = ticks()
    client.call("Start", (1, name))
    client.call("Wait", (1, name))
    cost = (ticks() - before) / os.sysconf("SC_CLK_TCK")
    client.call("Delete", (1, name))
    client.shutdown(name)
    for reader in readers:
        reader.wait(30)
    return cost / gigabytes


def table(shims, numbers, arguments):
    davit, go = shims
    lines = ["|  | davit | Go shim with runc | davit/Go |", "|---|---|---|---|"]

    def row(what, ours, theirs, digits=2):
        ratio = f"{ours / theirs:.2f}" if theirs else "–"
        lines.append(f"| {what} | {round(ours, digits):g} | {round(theirs, digits):g} | {ratio} |")

    for size in (1, 10, 100):
        for key, what in (("rss", "RSS"), ("private", "private"), ("anonymous", "anonymous"), ("pss", "PSS")):
            row(f"{what} with {size} container{'s' * (size > 1)}, KB", numbers[davit.name][size][key],
                numbers[go.name][size][key], 0)
    row("threads", numbers[davit.name][1]["threads"], numbers[go.name][1]["threads"], 0)
    row("system calls at rest, per minute", numbers[davit.name][1]["idle"] * 3, numbers[go.name][1]["idle"] * 3, 0)
    names = {"true": "a program that does nothing, run as `start` is, ms"}
    for what in ("true", "start", "create+start", "exec", "kill", "delete"):
        row(names.get(what, f"{what}, ms"), statistics.median(davit.times[what]), statistics.median(go.times[what]))
    row("1,000 execs, CPU s (shim and runtime)", numbers[davit.name]["exec"], numbers[go.name]["exec"])
    row("1 GB of output, CPU s of the shim", numbers[davit.name]["output"], numbers[go.name]["output"])
    row("size of the program, KB", *(os.stat(shim.program).st_size / 1024 for shim in shims), 0)
    head = (f"Linux {platform.release()}, {platform.machine()}, {os.cpu_count()} CPUs, load "
            f"{os.getloadavg()[0]:.1f} at the end, {arguments.rounds} rounds, {arguments.execs} execs.")
    return "\n".join([head, "", *lines])


def write(path, text):
    page = path.read_text()
    begin, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    path.write_text(f"{page[:begin]}\n{text}\n{page[end:]}")


def remove_cgroups(shim):
    for hierarchy in [*Path("/sys/fs/cgroup").iterdir(), Path("/sys/fs/cgroup")]:
        base = hierarchy / shim.namespace
        if base.is_dir():
            for inner in [p for p in base.iterdir() if p.is_dir()] + [base]:
                try:
                    inner.rmdir()
                except OSError as error:
                    print(f"{inner}: {error}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--davit", required=True)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--execs", type=int, default=300)
    parser.add_argument("--gigabytes", type=int, default=1)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    path = f"{arguments.peers}:{os.environ['PATH']}"
    shims = [Shim("davit", arguments.davit, arguments.work, path),
             Shim("go", str(arguments.peers / "containerd-shim-runc-v2"), arguments.work, path)]
    numbers = {shim.name: {} for shim in shims}
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        for size in (1, 10, 100):
            for shim in shims:
                numbers[shim.name][size] = pods(shim, size)
        for _ in range(arguments.rounds):
            for shim in shims:
                shim.round()
        for shim in shims:
            numbers[shim.name]["exec"] = exec_cost(shim, arguments.execs)
            numbers[shim.name]["output"] = output_cost(shim, arguments.gigabytes)
    finally:
        time.sleep(1)
        for shim in shims:
            remove_cgroups(shim)
    text = table(shims, numbers, arguments)
    print(text)
    if arguments.write:
        write(arguments.write, text)


main()
