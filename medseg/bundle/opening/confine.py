"""What a process gives up before it opens a stranger's bundle: the network, memory without end, life after its parent.

All of this is a second wall: without `--trust` a bundle is read as data, and with it a person has seen what runs. Call
`close_network` first, while the process has one thread. Nothing here can be taken back.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from typing import Any

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # CLONE_NEWUSER, CLONE_NEWNET
PARENT_DEATH_SIGNAL, NO_NEW_PRIVILEGES = 1, 38  # PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS
CAPABILITIES = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
REFUSED = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr",
           "socket.sendto", "socket.sendmsg")  # fmt: skip
RESERVE = 4 << 30  # bytes of addresses for libraries that are loaded later
PER_THREAD = 72 << 20  # its stack and the heap that glibc reserves for it


def die_with_parent(parent: int) -> None:
    """End this process when the one that started it ends, also by kill -9 (Linux; elsewhere its closed pipe tells)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before we asked
            os._exit(1)


def close_network() -> str:
    """Leave the network for good; returns why only Python's sockets are closed, or "" when the system closed it.

    On Linux the process moves into a network of its own, which has no way out; programs that it starts stay in it.
    """
    why = _own_network()
    sys.addaudithook(_refuse_sockets)
    return why


def _own_network() -> str:
    if not sys.platform.startswith("linux"):
        return f"{sys.platform} has no networks per process"
    tried = os.fork()  # half a success cannot be taken back, so a throw-away process tries first
    if tried == 0:
        os._exit(0 if _unshare() else 1)
    if os.waitstatus_to_exitcode(os.waitpid(tried, 0)[1]) == 0 and _unshare():
        return ""
    return "this system allows no network of its own to a process"


def _unshare() -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_NETWORK) == 0:  # allowed to administrators, whose rights over files must stay as they are
        return True
    user, group = os.getuid(), os.getgid()
    if libc.unshare(NEW_USER | NEW_NETWORK) != 0:
        return False
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as stream:
                stream.write(text)
    except OSError:
        return False
    libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    header, nothing = (ctypes.c_uint32 * 2)(CAPABILITIES, 0), (ctypes.c_uint32 * 6)()
    return bool(libc.capset(header, nothing) == 0)  # the new user namespace gave all of them


def _refuse_sockets(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in REFUSED:
        return
    family = getattr(arguments[0], "family", None) if arguments else None
    if family is None or getattr(family, "name", "") != "AF_UNIX":
        raise PermissionError(
            "the network is closed while a stranger's bundle is open (MEDSEG_FOREIGN_NETWORK=open opens it)"
        )


def limit_addresses(memory: int) -> None:
    """Let this process and those it starts map at most `memory` bytes beyond what is mapped now, and what threads need.

    Where the system has no such limit (Windows, macOS), the parent's watcher of resident memory is the only one.
    """
    if not sys.platform.startswith("linux"):
        return
    import resource

    with open("/proc/self/statm", encoding="ascii") as stream:
        mapped = int(stream.read().split()[0]) * resource.getpagesize()
    threads = 8 + 2 * (os.cpu_count() or 1) + threading.active_count()
    wanted = mapped + memory + RESERVE + threads * PER_THREAD
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def write_no_core() -> None:
    """A crash leaves no image of the memory, which holds patients' pictures, on the disk."""
    if os.name == "posix":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
