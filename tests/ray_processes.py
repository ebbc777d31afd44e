"""The processes of a Ray, and how to kill one."""

import signal
import time

import psutil


def processes(place: str) -> list[psutil.Process]:
    """Those of the Ray whose temporary folder is ``place``: raylet, GCS and so on."""
    found = []
    for one in psutil.process_iter(["cmdline"]):
        if any(place in word for word in one.info["cmdline"] or ()):
            found.append(one)
    return found


def gone(place: str, seconds: float = 60) -> None:
    """Wait until the processes of a Ray have ended."""
    end = time.monotonic() + seconds
    while left := processes(place):
        assert time.monotonic() < end, f"Ray left {left}"
        time.sleep(0.2)


def workers(title: str) -> list[psutil.Process]:
    """Ray's worker processes below this one that are busy with, or actors for, a function or a class."""
    return [
        one
        for one in psutil.Process().children(recursive=True)
        if one.is_running() and title in " ".join(_command(one)) and _command(one)[0].startswith("ray::")
    ]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline() or [""]
    except psutil.Error:
        return [""]


def kill_one(title: str) -> int:
    """Kill a worker process, the next that is busy; its number."""
    end = time.monotonic() + 60
    while not (found := workers(title)):
        assert time.monotonic() < end, f"no process of {title}"
        time.sleep(0.05)
    found[0].send_signal(signal.SIGKILL)
    return found[0].pid
