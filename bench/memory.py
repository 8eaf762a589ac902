"""Process ids in, the memory they and their children hold out, in megabytes."""

import contextlib

import psutil

from bench.figures import Memory


def resident(pids: dict[str, int]) -> Memory:
    """RSS counts a page that processes share once for each of them (Postgres' buffers); PSS shares it out."""
    rss, pss = {}, {}
    for name, pid in pids.items():
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        rss[name], pss[name] = 0.0, 0.0
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                found = process.memory_full_info()
                rss[name] += found.rss / 1e6
                pss[name] += getattr(found, "pss", 0) / 1e6
    return Memory(rss, pss)
