#!/usr/bin/python3
"""What libseccomp makes of call names and of profiles.

Without arguments writes numbers.json and golden.json. `generate.py stream COUNT SEED FILE...` prints one object of
golden.json's kind per line: for the profiles in the files, then for COUNT random ones.

Run on x86_64 with Debian's python3-seccomp (libseccomp 2.5.4), in this folder. The order of libseccomp
calls is runc's: redundant rules and unknown names skipped, a repeated argument index split into rules.
"""
import itertools
import json
import os
import random
import struct
import sys

import seccomp

ARCHES = {
    "x86_64": seccomp.Arch.X86_64,
    "x32": seccomp.Arch.X32,
    "x86": seccomp.Arch.X86,
    "aarch64": seccomp.Arch.AARCH64,
    "arm": seccomp.Arch.ARM,
}
OPS = {
    "SCMP_CMP_NE": seccomp.NE,
    "SCMP_CMP_LT": seccomp.LT,
    "SCMP_CMP_LE": seccomp.LE,
    "SCMP_CMP_EQ": seccomp.EQ,
    "SCMP_CMP_GE": seccomp.GE,
    "SCMP_CMP_GT": seccomp.GT,
    "SCMP_CMP_MASKED_EQ": seccomp.MASKED_EQ,
}
ACTIONS = {
    "SCMP_ACT_KILL": seccomp.KILL,
    "SCMP_ACT_KILL_THREAD": seccomp.KILL,
    "SCMP_ACT_KILL_PROCESS": seccomp.KILL_PROCESS,
    "SCMP_ACT_TRAP": seccomp.TRAP,
    "SCMP_ACT_LOG": seccomp.LOG,
    "SCMP_ACT_ALLOW": seccomp.ALLOW,
    "SCMP_ACT_NOTIFY": seccomp.NOTIFY,
}
# Calls that Docker's default profile does not allow (its documentation lists them), or only by argument.
DOCKER_DENIED = """_sysctl acct add_key afs_syscall bpf break clock_adjtime clock_adjtime64 clock_settime
clock_settime64 clone clone3 create_module delete_module epoll_ctl_old epoll_wait_old fanotify_init
finit_module fsconfig fsmount fsopen fspick ftime get_kernel_syms get_mempolicy getpmsg gtty idle
init_module ioperm iopl kcmp kexec_file_load kexec_load keyctl lock lookup_dcookie mbind migrate_pages
mount mount_setattr move_mount move_pages mpx nfsservctl open_by_handle_at open_tree perf_event_open
personality pidfd_getfd pivot_root process_madvise process_vm_readv process_vm_writev prof profil ptrace
putpmsg query_module quotactl quotactl_fd reboot request_key security set_mempolicy sethostname
setdomainname setns settimeofday socket stime stty swapoff swapon sysfs syslog tuxcall ulimit umount
umount2 unshare uselib userfaultfd ustat vhangup vm86 vm86old vserver""".split()


def resolve(arch, name):
    try:
        return seccomp.resolve_syscall(ARCHES[arch], name)
    except Exception:
        return -1


def all_names():
    names = {"break"}
    for arch in ARCHES.values():
        base = 0x40000000 if arch == seccomp.Arch.X32 else 0
        for nr in itertools.chain(range(0, 700), range(0xF0000, 0xF0010)):
            try:
                name = seccomp.resolve_syscall(arch, base + nr)
            except Exception:
                continue
            names.add(name.decode() if isinstance(name, bytes) else name)
    return sorted(names)


def action(name, errno):
    if name == "SCMP_ACT_ERRNO":
        return seccomp.ERRNO(1 if errno is None else errno)
    if name == "SCMP_ACT_TRACE":
        return seccomp.TRACE(1 if errno is None else errno)
    return ACTIONS[name]


def condition(arg):
    op = OPS[arg["op"]]
    if op == seccomp.MASKED_EQ:
        return seccomp.Arg(arg["index"], op, arg["value"], arg.get("valueTwo", 0))
    return seccomp.Arg(arg["index"], op, arg["value"])


def compile_profile(machine, profile):
    default = action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    fltr = seccomp.SyscallFilter(default)
    if machine == "aarch64":
        fltr.add_arch(seccomp.Arch.AARCH64)
        fltr.remove_arch(seccomp.Arch.X86_64)
    for arch in profile.get("architectures") or []:
        arch = ARCHES[arch.removeprefix("SCMP_ARCH_").lower()]
        if not fltr.exist_arch(arch):
            fltr.add_arch(arch)
    for rule in profile["syscalls"]:
        act = action(rule["action"], rule.get("errnoRet"))
        if act == default:
            continue
        args = rule.get("args", [])
        conds = [condition(a) for a in args]
        split = len({a["index"] for a in args}) < len(args)
        for name in rule["names"]:
            if seccomp.resolve_syscall(seccomp.Arch.NATIVE, name) == -1:
                continue
            for conds_of_rule in [[c] for c in conds] if split else [conds]:
                fltr.add_rule(act, name, *conds_of_rule)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        with os.fdopen(write, "wb") as out:
            fltr.export_bpf(out)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as data:
        program = data.read()
    os.waitpid(pid, 0)
    return program.hex()


def loads_number(program):
    """False for programs in which libseccomp 2.5.4 forgot to load the call number.

    It happens to sections other than x86_64's with a single call whose rule has arguments: the number is
    compared with the architecture word then.
    """
    program = bytes.fromhex(program)
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    words = (0xC000003E, 0x40000003, 0xC00000B7, 0x40000028)
    entries = [at + 1 + jt for at, (op, jt, _, k) in enumerate(code) if op == 0x15 and k in words]
    return all(code[at][0] == 0x20 and code[at][3] == 0 for at in entries)


def docker(names, architectures):
    allowed = [n for n in names if n not in DOCKER_DENIED]
    masked = {"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    rules = [{"names": allowed, "action": "SCMP_ACT_ALLOW"}]
    rules.append({
        "names": ["socket"], "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}],
    })
    for persona in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF):
        rules.append({
            "names": ["personality"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": persona, "op": "SCMP_CMP_EQ"}],
        })
    rules.append({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [masked]})
    rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38})
    return {
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "architectures": architectures, "syscalls": rules,
    }


def random_arg(rng, index):
    value = rng.choice([0, 1, 2, 8, 40, 0xFFFFFFFF, 1 << 32, (1 << 32) + 5, (1 << 63), (1 << 64) - 1,
                        rng.getrandbits(64), rng.getrandbits(32), rng.getrandbits(8)])
    arg = {"index": index, "value": value, "op": rng.choice(list(OPS))}
    if arg["op"] == "SCMP_CMP_MASKED_EQ":
        # A zero mask makes libseccomp's rule unconditional, and it beats others then.
        arg["value"] |= 1 | 1 << 40
        arg["valueTwo"] = rng.getrandbits(64) & rng.choice([value, (1 << 64) - 1])
    return arg


def random_profile(rng, names, machine):
    others = ["SCMP_ARCH_X86", "SCMP_ARCH_X32"] if machine == "x86_64" else ["SCMP_ARCH_ARM"]
    native = "SCMP_ARCH_" + machine.upper()
    architectures = [native] + [a for a in others if rng.random() < 0.6]
    # One conditional rule for a call, or several that compare with EQ and share the action: libseccomp
    # reorders others, and 2.5.4 goes wrong where an argument is compared several times by order (the low
    # half, still loaded from one comparison, is taken for the high half of the next).
    conditional = {}
    actions = list(ACTIONS) + ["SCMP_ACT_ERRNO"] * 3 + ["SCMP_ACT_TRACE"] + ["SCMP_ACT_ALLOW"] * 3
    rules = []
    for _ in range(rng.randint(1, 14)):
        chosen = [rng.choice(names) for _ in range(rng.choice([1, 1, 2, 5, 12]))]
        rule = {"names": chosen, "action": rng.choice(actions)}
        if rule["action"] in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE") and rng.random() < 0.7:
            rule["errnoRet"] = rng.choice([0, 1, 38, 95, 4094])
        if rng.random() < 0.5:
            count = rng.choice([1, 1, 2, 3])
            indexes = [rng.randint(0, 5) for _ in range(count)]
            rule["args"] = [random_arg(rng, i) for i in indexes]
            if len(set(indexes)) < count or rng.random() < 0.3:
                for arg in rule["args"]:
                    arg["op"] = "SCMP_CMP_EQ"
            equal = all(a["op"] == "SCMP_CMP_EQ" for a in rule["args"])
            key = (rule["action"], rule.get("errnoRet")) if equal else len(rules)
            rule["names"] = [n for n in chosen if conditional.setdefault(n, key) == key]
            if not rule["names"]:
                continue
        rules.append(rule)
    profile = {
        "defaultAction": rng.choice(["SCMP_ACT_ERRNO", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS",
                                     "SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRAP"]),
        "architectures": architectures, "syscalls": rules,
    }
    if profile["defaultAction"] == "SCMP_ACT_ERRNO" and rng.random() < 0.6:
        profile["defaultErrnoRet"] = rng.choice([1, 38, 95])
    return profile


def compiled(rng, names, machine):
    """A random profile that libseccomp takes, with its program."""
    while True:
        profile = random_profile(rng, names, machine)
        try:
            program = compile_profile(machine, profile)
        except RuntimeError as error:
            # EEXIST: socket calls with arguments conflict behind socketcall.
            assert "-17" in str(error), error
            continue
        if loads_number(program):
            return profile, program


def stream(count, seed, files):
    names, rng = all_names(), random.Random(seed)

    def show(name, machine, profile, program):
        entry = {"name": name, "machine": machine, "profile": profile, "program": program}
        print(json.dumps(entry, separators=(",", ":")))

    for file in files:
        with open(file) as text:
            profile = json.load(text)
        show(os.path.basename(file), "x86_64", profile, compile_profile("x86_64", profile))
    for index in range(count):
        machine = "aarch64" if index % 4 == 3 else "x86_64"
        show(f"random {seed}.{index}", machine, *compiled(rng, names, machine))


def main():
    if sys.argv[1:2] == ["stream"]:
        stream(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
        return
    names = all_names()
    numbers = {arch: {n: resolve(arch, n) for n in names if resolve(arch, n) >= 0} for arch in ARCHES}
    with open("numbers.json", "w") as out:
        json.dump({"names": names, "numbers": numbers}, out, separators=(",", ":"))
        out.write("\n")
    rng = random.Random(20240229)
    profiles = [
        ("docker", "x86_64", docker(names, ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"])),
        ("docker-native", "x86_64", docker(names, [])),
        ("docker-arm", "aarch64", docker(names, ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"])),
    ]
    for index in range(80):
        machine = "aarch64" if index % 4 == 3 else "x86_64"
        profiles.append((f"random-{index}", machine, compiled(rng, names, machine)[0]))
    with open("golden.json", "w") as out:
        out.write("[\n")
        for last, (name, machine, profile) in enumerate(profiles, 1 - len(profiles)):
            program = compile_profile(machine, profile)
            entry = {"name": name, "machine": machine, "profile": profile, "program": program}
            out.write(json.dumps(entry, separators=(",", ":")) + ("\n" if last == 0 else ",\n"))
        out.write("]\n")


main()
