"""The folders whose files the service may read, and what clients see of a path."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from t2i_pipelines.errors import ImageDecodeError, QueryError
from t2i_pipelines.images.address import check_size, is_http, scheme
from t2i_pipelines.images.files import read_member

_URL = re.compile(r"[a-z][a-z0-9+.-]{1,31}://[^\s'\",;)]+", re.IGNORECASE)
"""A scheme has a longest length: without one, a long word is read once from each of its letters."""
_PATH = re.compile(r"(?:(?<![\w.:/>-])|(?<=:)(?!//))~?/[^\s'\",;:)]*[^\s'\",;:).]")


class Roots:
    """Names of folders, and what is in these.

    :param named: name -> absolute path. Stored paths begin with it, as those that ``t2i insert`` stores.
    """

    def __init__(self, named: Mapping[str, Path]) -> None:
        self._named = {name: os.path.abspath(path) for name, path in named.items()}
        self._real = {name: os.path.realpath(path) for name, path in self._named.items()}

    def locate(self, asked: str) -> str:
        """``photos/2024/a.jpg`` -> the absolute path.

        :raises QueryError: If there is no such root, or no such file or folder in it. What is elsewhere is
            not there, whether it exists or not.
        """
        name, _, rest = asked.removeprefix("./").partition("/")
        nothing = QueryError(
            f"no file or folder {asked!r:.200}; it begins with the name of a folder that is served: "
            f"{', '.join(sorted(self._named)) or 'there is none'}"
        )
        if name not in self._named or "\0" in asked or ".." in rest.split("/"):
            raise nothing
        path = os.path.normpath(os.path.join(self._named[name], rest.lstrip("/")))
        if not os.path.lexists(path) or not self.holds(path):
            raise nothing
        return path

    def holds(self, path: str) -> bool:
        """Return whether a local path leads into a root when all links are followed."""
        if scheme(path) or not os.path.isabs(path) or "\0" in path:
            return False
        real = os.path.realpath(path)
        return any(real == root or real.startswith(root.rstrip("/") + "/") for root in self._real.values())

    def admits(self, address: str) -> bool:
        """Return whether a stored address is a file in a root, or in a tar that is."""
        return self.holds(_archive(address))

    def read(self, address: str) -> bytes:
        """Return the bytes of a file in a root, or in a tar in a root.

        What was opened is what is checked: a link that changes meanwhile leads nowhere.

        :raises ImageDecodeError: If it is elsewhere, no file, too large, or cannot be read.
        """
        self._check_admitted(address)
        if scheme(address) == "tar":
            return read_member(address)
        with self.open(address) as file:
            content = file.read()
        if not content:
            raise ImageDecodeError(f"cannot read image {address}: the file is empty")
        return content

    def open(self, address: str) -> BinaryIO:
        """Open a file in a root, as :meth:`read` does.

        :raises ImageDecodeError: As :meth:`read` does; of a tar's member, too.
        """
        self._check_admitted(address)
        try:
            handle = os.open(address, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                self._check_opened(handle, address)
                return os.fdopen(handle, "rb")
            except BaseException:
                os.close(handle)
                raise
        except OSError as err:
            raise ImageDecodeError(f"cannot read image {address}: {err.strerror}") from err

    def _check_admitted(self, address: str) -> None:
        if not self.admits(address):
            raise ImageDecodeError(
                f"cannot read image {address}: it is in none of the folders that are served"
            )

    def _check_opened(self, handle: int, address: str) -> None:
        opened, real = os.fstat(handle), os.path.realpath(address)
        if not stat.S_ISREG(opened.st_mode):
            raise ImageDecodeError(f"cannot read image {address}: it is not a file")
        if not self.holds(real) or not os.path.samestat(opened, os.stat(real, follow_symlinks=False)):
            raise ImageDecodeError(
                f"cannot read image {address}: it is in none of the folders that are served"
            )
        try:
            check_size(opened.st_size)
        except ImageDecodeError as err:
            raise ImageDecodeError(f"cannot read image {address}: {err}") from err

    def shown(self, address: str) -> str | None:
        """Return a stored address as clients see it; None for a place that is none of their business.

        A URL loses its password and its query, which may be a signature.
        """
        if is_http(address):
            return _without_secrets(address)
        if scheme(address) == "tar":
            member, _, archive = address.partition("::")
            inner = self.shown(archive)
            return None if inner is None else f"{member}::{inner}"
        if scheme(address):
            return None
        for roots in (self._named, self._real):
            for name, root in roots.items():
                if address == root or address.startswith(root.rstrip("/") + "/"):
                    return f"{name}/{address[len(root.rstrip('/')) + 1 :]}".rstrip("/")
        return None

    def cleaned(self, text: str) -> str:
        """Return a message without the server's paths, and without what URLs keep secret."""
        for roots in (self._named, self._real):
            for name, root in sorted(roots.items(), key=lambda one: -len(one[1])):
                text = re.sub(rf"(?<![\w.-]){re.escape(root.rstrip('/'))}(?=/|[^\w.-]|$)", name, text)
        text = _URL.sub(lambda found: _url_shown(found[0]), text)
        return _PATH.sub("<path>", text)


def _archive(address: str) -> str:
    """Return what of a ``tar://`` address is to be opened: the tar."""
    while scheme(address) == "tar":
        address = address.partition("::")[2]
    return address


def _url_shown(url: str) -> str:
    if is_http(url):
        return _without_secrets(url)
    return url if scheme(url) == "tar" else f"{scheme(url)}://..."


def _without_secrets(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that are not closed: what would be the host, is not known
        return f"{scheme(url)}://..."
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"
