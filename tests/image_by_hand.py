"""A Dockerfile's steps without an engine: each path of the image is moved below a folder of the host.

What COPY takes is what .dockerignore lets through; RUN is run by ``sh -c``, as an engine would; stages
are folders. Users, namespaces and the base image's own files are what only an engine has.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parent.parent
PLACES = ("src", "opt", "data", "models", "pictures", "tmp")
METADATA = ("USER", "LABEL")


def steps(path=ROOT / "Dockerfile"):
    """(instruction, value) in order, without comments."""
    found = DockerfileParser(path=str(path)).structure
    return [(one["instruction"], one["value"]) for one in found if one["instruction"] != "COMMENT"]


def context(into: Path) -> None:
    """Copy what .dockerignore lets through: ``*``, then what ``!`` takes back, then ``**/NAME`` again."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("", "#")]
    assert rules[0] == "*"
    hidden = [rule.removeprefix("**/") for rule in rules if rule.startswith("**/")]
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    assert len(rules) == 1 + len(hidden) + len(kept)
    into.mkdir(parents=True, exist_ok=True)
    for name in kept:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, into / name, ignore=shutil.ignore_patterns(*hidden))
        else:
            (into / name).parent.mkdir(exist_ok=True)
            shutil.copy(source, into / name)


class ImageByHand:
    """The image, built below ``root``.

    :ivar environment: what ENV said, and nothing of the host's.
    :ivar health: the command of HEALTHCHECK.
    :ivar command: ENTRYPOINT and CMD.
    """

    def __init__(self, root: Path, arguments=()):
        self.root = root
        self.arguments = dict(arguments)
        self.stages, self.stage = {}, ""
        self.environment = {}
        self.workdir = root
        self.health = self.entrypoint = self.cmd = None
        self.stop_signal = None
        for instruction, value in steps():
            if instruction not in METADATA:
                getattr(self, f"_{instruction.lower()}")(value)

    @property
    def command(self):
        return [*self.entrypoint, *self.cmd]

    def moved(self, text: str) -> str:
        """The same, with paths of the image below ``root``."""
        return re.sub(rf"(?<![\w./-])/({'|'.join(PLACES)})\b", rf"{self.root}/\1", text)

    def _arg(self, value):
        name, _, default = value.partition("=")
        self.arguments.setdefault(name, default)

    def _from(self, value):
        if self.stage:  # the one before this
            self.stages[self.stage] = self.root.rename(self.root.with_name(f"stage-{self.stage}"))
        self.stage = value.partition(" AS ")[2]
        (self.root / "tmp").mkdir(parents=True)
        self.environment, self.workdir = {"PATH": self._base_path()}, self.root

    def _base_path(self) -> str:
        """``python`` and the tools of the base image."""
        tools = self.root / "usr-local-bin"
        tools.mkdir()
        for name in ("python", "python3"):
            (tools / name).write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
            (tools / name).chmod(0o755)
        return f"{tools}:/usr/bin:/bin"

    def _workdir(self, value):
        self.workdir = Path(self.moved(value))
        self.workdir.mkdir(parents=True, exist_ok=True)

    def _copy(self, value):
        *options, source, into = shlex.split(value)
        if not options and source == into == ".":
            context(self.workdir)
            return
        if not options:
            context(self.root / "context")
            shutil.copy(self.root / "context" / source, self.workdir / into)
            return
        (stage,) = (option.removeprefix("--from=") for option in options)
        shutil.copytree(f"{self.stages[stage]}{source}", self.moved(into), symlinks=True)

    def _run(self, value):
        subprocess.run(
            ["sh", "-c", self.moved(value)],
            cwd=self.workdir, env=self.environment | self.arguments | self.outside(), check=True,
        )  # fmt: skip

    @staticmethod
    def outside():
        """How the host reaches its package index; pip's own settings lie in its user's home."""
        wanted = re.compile("HOME$|PIP_|SSL_|.*_PROXY$", re.IGNORECASE)
        return {name: value for name, value in os.environ.items() if wanted.match(name)}

    def _env(self, value):
        for one in shlex.split(value):
            name, _, content = one.partition("=")
            self.environment[name] = self.moved(content).replace("$PATH", self.environment["PATH"])

    def _volume(self, value):
        assert all(Path(self.moved(place)).is_dir() for place in json.loads(value))

    def _healthcheck(self, value):
        self.health = json.loads(value[value.index("CMD ") + 4 :])

    def _expose(self, value):
        self.port = int(value)

    def _stopsignal(self, value):
        self.stop_signal = value

    def _entrypoint(self, value):
        self.entrypoint = json.loads(value)

    def _cmd(self, value):
        self.cmd = json.loads(value)
