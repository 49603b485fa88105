"""What code inside the sandbox can reach, said as JSON. Stand-alone, standard library only.

    python probes.py [--port N] [--abstract NAME] [--allowed PATH ...] [--hidden PATH ...]
                     [--pid N] [--write-bytes N] [--text WORDS ...] [--hex BYTES ...]
                     [--anywhere] [@FILE]

FILE holds more of these, one a line. Prints one JSON object:

    network      connected, resolved, abstract: what answered; routes: addresses to which there is a
                 way (nothing is sent); interfaces; unix: sockets in sight
    files        outside: readable files that are under none of --allowed (500 at most), count;
                 hidden: which of --hidden can be seen; text: readable files that hold one of --text
                 or --hex
    proc         environ: bytes of /proc/1/environ; cmdlines of all processes in sight but itself
    processes    visible: number in /proc; killed: whether --pid took a signal
    environment  all variables
    devices      names below /dev; made: kinds of device that could be made
    rights       cap_eff, cap_prm, cap_bnd (hexadecimal), no_new_privs, seccomp, uid, gid
    writable     mount points in which a file could be made; mounts: all of them
    namespaces   kinds of which a new one could be made
    size         written: bytes of one file in $HARNESS_OUT before it was refused; null without
                 --write-bytes

Nothing here raises: what fails is not reached. It tries to hurt --pid only. It refuses to run where
it sees no sandbox (/harness/files), since it would print that machine's environment.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECONDS = 2.0
SKIPPED = ("/proc", "/sys", "/dev")
MOST = 500

NAMESPACES = {
    "user": 0x10000000,
    "mount": 0x00020000,
    "network": 0x40000000,
    "pid": 0x20000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
}


def read(path: str | Path, limit: int = 1 << 20) -> bytes | None:
    """The beginning of a file; None if it can't be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    content = b""
    try:
        # The kernel's own files come a page at a time.
        while len(content) < limit and (part := os.read(fd, limit - len(content))):
            content += part
        return content
    except OSError:
        return None
    finally:
        os.close(fd)


def network(port: int | None, abstract: str | None) -> dict[str, Any]:
    reached: dict[str, Any] = {"connected": [], "routes": [], "resolved": [], "abstract": []}
    for host in ("127.0.0.1", "::1") if port is not None else ():
        with contextlib.suppress(OSError), socket.create_connection((host, port), SECONDS):
            reached["connected"].append(f"{host}:{port}")
    # Addresses that documents use as examples; connecting a datagram socket sends nothing.
    for family, host in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as line:
            line.connect((host, 9))
            reached["routes"].append(host)
    for name in ("example.com",):
        with contextlib.suppress(OSError):
            socket.getaddrinfo(name, 80)
            reached["resolved"].append(name)
    if abstract is not None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as line:
            line.settimeout(SECONDS)
            line.connect("\0" + abstract)
            reached["abstract"].append(abstract)
    with contextlib.suppress(OSError), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0):
        reached["netlink"] = True
    icmp = (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with contextlib.suppress(OSError), socket.socket(*icmp):
        reached["raw"] = True
    reached["interfaces"] = [name for _, name in socket.if_nameindex()]
    lines = (read("/proc/net/unix") or b"").decode(errors="replace").splitlines()[1:]
    reached["unix"] = [line.split()[-1] for line in lines if len(line.split()) > 7]
    return reached


def walk(folder: str) -> Iterator[str]:
    """All regular files below a folder; links are not followed."""
    for where, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if os.path.join(where, f) not in SKIPPED]
        for name in names:
            path = os.path.join(where, name)
            with contextlib.suppress(OSError):
                if stat.S_ISREG(os.lstat(path).st_mode):
                    yield path


def holds(path: str, texts: list[bytes]) -> bool:
    """Whether a file holds one of the texts, read in overlapping pieces."""
    overlap = max(map(len, texts)) - 1
    try:
        with open(path, "rb") as file:
            rest = b""
            while piece := file.read(1 << 22):
                piece = rest + piece
                if any(text in piece for text in texts):
                    return True
                rest = piece[-overlap:] if overlap else b""
    except OSError:
        pass
    return False


def files(allowed: list[str], hidden: list[str], wanted: list[bytes]) -> dict[str, Any]:
    outside, count, found = [], 0, []
    roots = [path.rstrip("/") + "/" for path in allowed]
    for path in walk("/"):
        if not os.access(path, os.R_OK):
            continue
        count += 1
        if path not in allowed and not path.startswith(tuple(roots)) and len(outside) < MOST:
            outside.append(path)
        if wanted and len(found) < MOST and holds(path, wanted):
            found.append(path)
    well_known = ["/etc/passwd", "/etc/shadow", "/root", "/home", "/proc/kcore", "/sys/kernel"]
    return {
        "outside": outside,
        "count": count,
        "hidden": [path for path in hidden if os.path.lexists(path)],
        "well_known": [path for path in well_known if os.path.lexists(path)],
        "text": found,
    }


def pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def proc() -> dict[str, Any]:
    lines = {}
    for pid in pids():
        if pid != os.getpid():
            said = read(f"/proc/{pid}/cmdline")
            if said:
                lines[pid] = said.replace(b"\0", b" ").decode(errors="replace").strip()
    environ = read("/proc/1/environ")
    return {
        "environ": None if environ is None else len(environ),
        "cmdlines": lines,
        "sys": sorted(os.listdir("/sys")) if os.path.isdir("/sys") else [],
    }


def processes(pid: int | None) -> dict[str, Any]:
    killed = None
    if pid is not None:
        try:
            os.kill(pid, signal.SIGKILL)
            killed = True
        except OSError:
            killed = False
    return {"visible": len(pids()), "pid": os.getpid(), "killed": killed}


def devices() -> dict[str, Any]:
    names = sorted(
        os.path.join(where, name) for where, _, found in os.walk("/dev") for name in found
    )
    made = []
    for kind, mode, numbers in (("block", stat.S_IFBLK, (8, 0)), ("memory", stat.S_IFCHR, (1, 1))):
        path = f"/tmp/device-{kind}"
        with contextlib.suppress(OSError):
            os.mknod(path, mode | 0o600, os.makedev(*numbers))
            made.append(kind)
            os.unlink(path)
    return {"names": names, "made": made}


def rights() -> dict[str, Any]:
    lines = (read("/proc/self/status") or b"").decode().splitlines()
    status = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {
        "cap_eff": status.get("CapEff"),
        "cap_prm": status.get("CapPrm"),
        "cap_bnd": status.get("CapBnd"),
        "no_new_privs": status.get("NoNewPrivs") == "1",
        "seccomp": status.get("Seccomp"),
        "uid": os.getuid(),
        "gid": os.getgid(),
    }


def mounts() -> dict[str, Any]:
    lines = (read("/proc/self/mountinfo") or b"").decode(errors="replace").splitlines()
    points = [line.split()[4].encode().decode("unicode_escape") for line in lines]
    writable = []
    for point in points:
        path = os.path.join(point, f"probe-{os.getpid()}") if os.path.isdir(point) else point
        with contextlib.suppress(OSError):
            if os.path.isdir(point):
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                os.unlink(path)
            elif stat.S_ISREG(os.lstat(path).st_mode):
                os.close(os.open(path, os.O_WRONLY))
            else:
                continue  # a device: that it can be opened says nothing
            writable.append(point)
    return {"mounts": points, "writable": writable}


def namespaces() -> list[str]:
    """Each is tried in a child, which ends at once."""
    libc = ctypes.CDLL(None, use_errno=True)
    made = []
    for name, flag in NAMESPACES.items():
        child = os.fork()
        if child == 0:
            os._exit(0 if libc.unshare(flag) == 0 else 1)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) == 0:
            made.append(name)
    return made


def size(limit: int | None) -> dict[str, Any]:
    """How much of `limit` bytes one file takes."""
    if limit is None:
        return {"written": None}
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path = os.path.join(os.environ.get("HARNESS_OUT", "/tmp"), "probe-size")
    written, piece = 0, bytes(1 << 20)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError:
        return {"written": 0}
    try:
        while written < limit:
            written += os.write(fd, piece[: limit - written])
    except OSError:
        pass
    finally:
        os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink(path)
    return {"written": written}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="What can be reached from here, as JSON.", fromfile_prefix_chars="@"
    )
    parser.add_argument("--port", type=int, help="a port on which the host listens")
    parser.add_argument("--abstract", help="an abstract Unix socket of the host")
    parser.add_argument("--allowed", nargs="*", default=[], help="what may be readable")
    parser.add_argument("--hidden", nargs="*", default=[], help="paths of the host")
    parser.add_argument("--text", nargs="*", default=[], help="words that no file may hold")
    parser.add_argument("--hex", nargs="*", default=[], help="the same as bytes in hexadecimal")
    parser.add_argument("--pid", type=int, help="a process of the host, to be killed")
    parser.add_argument("--write-bytes", type=int, help="how much to write into one file")
    parser.add_argument("--anywhere", action="store_true", help="also where no sandbox is seen")
    asked = parser.parse_args()
    if not asked.anywhere and not os.path.isdir("/harness/files"):
        parser.error("there is no /harness/files here: this does not look like the sandbox")
    wanted = [text.encode() for text in asked.text] + [bytes.fromhex(h) for h in asked.hex]
    print(
        json.dumps(
            {
                "network": network(asked.port, asked.abstract),
                "files": files(asked.allowed, asked.hidden, wanted),
                "proc": proc(),
                "processes": processes(asked.pid),
                "environment": dict(os.environ),
                "devices": devices(),
                "rights": rights(),
                **mounts(),
                "namespaces": namespaces(),
                "size": size(asked.write_bytes),
            }
        )
    )


if __name__ == "__main__":
    main()
