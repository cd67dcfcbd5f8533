"""A seccomp agent: takes listeners at a socket and answers the calls of the processes behind them.

agent.py SOCKET LOG ANSWERS

ANSWERS is JSON: call number -> {"errno": N} | {"value": N} | {"addfd": PATH} | {"wait": true}, and "*" for the
others (default: {"continue": true}). LOG gets a JSON object per line: "listening", each state that came, each call.
"""
import array
import fcntl
import json
import os
import socket
import struct
import sys
import threading

RECV, SEND, ADDFD = 0xC0502100, 0xC0182101, 0x40182103
CONTINUE, ADDFD_SEND = 1, 2

path, log, answers = sys.argv[1], open(sys.argv[2], "a", buffering=1), json.loads(sys.argv[3])


def note(**what):
    log.write(json.dumps(what) + "\n")


def answer(listener, call, how):
    if "addfd" in how:
        fd = os.open(how["addfd"], os.O_RDONLY)
        try:
            # Kernel 5.14: adds the descriptor and answers with its number, in one.
            fcntl.ioctl(listener, ADDFD, struct.pack("=QIIII", call, ADDFD_SEND, fd, 0, 0))
        finally:
            os.close(fd)
        return
    flags = 0 if "errno" in how or "value" in how else CONTINUE
    response = struct.pack("=QqiI", call, how.get("value", 0), -how.get("errno", 0), flags)
    fcntl.ioctl(listener, SEND, bytearray(response), True)


def serve(listener):
    while True:
        buffer = bytearray(80)
        try:
            fcntl.ioctl(listener, RECV, buffer, True)
        except InterruptedError:
            continue
        except OSError as error:
            # ENOENT: the caller was killed, or the last one of this filter has ended.
            import select
            poll = select.poll()
            poll.register(listener, select.POLLIN)
            if any(event & select.POLLHUP for _, event in poll.poll(0)):
                note(gone=True)
                os.close(listener)
                return
            continue
        call, pid, _, nr, arch = struct.unpack_from("=QIIiI", buffer)
        how = answers.get(str(nr), answers.get("*", {"continue": True}))
        note(call=nr, pid=pid, arch=arch)
        if "wait" in how:
            continue
        try:
            answer(listener, call, how)
        except OSError as error:
            note(failed=str(error))


def greet(connection):
    data, fds = b"", array.array("i")
    space = socket.CMSG_SPACE(fds.itemsize * 4)
    while True:
        part, control, _, _ = connection.recvmsg(1 << 16, space)
        for level, kind, value in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(value)
        if not part:
            break
        data += part
    note(state=json.loads(data) if data else None, descriptors=len(fds))
    for listener in fds:
        serve(listener)


server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen(8)
note(listening=True)
while True:
    connection, _ = server.accept()
    threading.Thread(target=greet, args=(connection,), daemon=True).start()
