"""How much RAM this process holds, and the most that it has held."""

from __future__ import annotations

import re
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def rss() -> int:
    """Bytes in RAM now (resident set size)."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_rss() -> int:
    """The most bytes that were in RAM at once since this program started."""
    if _STATUS.is_file():
        # not getrusage: on Linux that begins with what the parent held when it started this process
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"))
        if found:
            return 1024 * int(found[1])
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
