"""The `t2i` command, which writes down each host but this one that it looks up or connects to."""

import os
import sys
from pathlib import Path

LOCAL = {"127.0.0.1", "localhost", "::1", "0.0.0.0", "::", ""}


def watch(event, told):
    if event == "socket.getaddrinfo":
        host = told[0]
    elif event == "socket.connect":
        host = told[1][0] if isinstance(told[1], tuple) else ""  # a path is a socket of this machine
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host or ""
    if host not in LOCAL:
        with Path(os.environ["UI_CONTACTS"]).open("a") as log:
            log.write(f"{event} {host}\n")


sys.addaudithook(watch)

import t2i_command  # noqa: E402

t2i_command.main()
