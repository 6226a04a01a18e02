"""How much main memory this process can have."""

from __future__ import annotations

from pathlib import Path


def free_memory() -> int:
    """Bytes of main memory that this process can have now: of the machine, of its container, of its own limit (`ulimit -v`)."""
    import psutil

    limits = [int(psutil.virtual_memory().available), _container_free(), _address_space_free()]
    return max(0, min(limit for limit in limits if limit is not None))


def _container_free() -> int | None:
    """Bytes left under a container's limit, files in the page cache given back; None without a limit."""
    try:
        root = Path("/sys/fs/cgroup")
        limit = (root / "memory.max").read_text().strip()
        if limit == "max":
            return None
        facts = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        cached = int(facts.get("inactive_file", 0)) + int(facts.get("active_file", 0))
        return int(limit) - int((root / "memory.current").read_text()) + cached
    except (OSError, ValueError):
        return None


def _address_space_free() -> int | None:
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return None
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError, ValueError):  # not on Windows; no /proc on macOS
        return None
    return max(0, limit - used)
