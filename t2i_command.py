"""The ``t2i`` command. Ctrl-C ends it in one line from here on, while the rest is still being imported.

Beside the package, not in it: importing any part of that takes most of a second.
"""

import os
import signal
import sys


def main() -> None:
    """Run the command."""
    signal.signal(signal.SIGINT, _end)
    from t2i_pipelines import cli
    from t2i_pipelines.cli import console

    console.end_at_once(_say)
    cli.main()


def _say() -> None:
    sys.stderr.write("interrupted; nothing was changed\n")


def _end(*_: object) -> None:
    _say()
    sys.stderr.flush()
    os._exit(130)


if __name__ == "__main__":
    main()
