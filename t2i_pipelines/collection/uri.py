"""Where a database is: a file of Milvus Lite, or a server."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from t2i_pipelines.errors import ConfigError

SCHEMES = ("http", "https", "tcp", "unix")
_HOST_AND_PORT = re.compile(r"[A-Za-z0-9_.-]+:\d+(/.*)?")


@dataclass(frozen=True)
class Address:
    """A checked ``uri``. Two spellings of one place are equal.

    :ivar uri: what pymilvus is given: an absolute path, links resolved, or a server's uri.
    :ivar path: the same as a path for Milvus Lite, None for a server.
    """

    uri: str
    path: Path | None

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine."""
        host = urlsplit(self.uri).hostname or ""
        return self.path is not None or host in ("localhost", "::1") or host.startswith("127.")

    def __str__(self) -> str:
        """The uri for messages, without user and password."""
        if self.path is not None or "@" not in self.uri:
            return self.uri
        parts = urlsplit(self.uri)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def parse_uri(uri: str | os.PathLike[str]) -> Address:
    """Tell a file from a server, and settle on one spelling. Touches nothing.

    :raises ConfigError: If ``uri`` is neither a path that ends in ``.db`` nor a server's uri.
    """
    text = os.fspath(uri)
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(
            f"uri must be a file that ends in .db or a server such as http://localhost:19530, got {uri!r}"
        )
    scheme, found, rest = text.partition("://")
    if found or text.startswith("unix:"):
        return _parse_server(text, scheme.lower() if found else "unix", rest)
    if _HOST_AND_PORT.fullmatch(text):
        raise ConfigError(f"uri {text!r} has no scheme; write http://{text}")
    return _parse_path(text)


def _parse_server(text: str, scheme: str, rest: str) -> Address:
    if scheme not in SCHEMES:
        raise ConfigError(
            f"uri {text!r} has the scheme {scheme!r}; a server's is one of {', '.join(SCHEMES)}, "
            f"and a file is written as its path"
        )
    if scheme == "unix":
        return Address(text, None)
    if not rest.strip("/"):
        raise ConfigError(f"uri {text!r} names no host; write for example {scheme}://localhost:19530")
    parts = urlsplit(text)
    try:
        parts.port  # noqa: B018 - read for its check
    except ValueError as err:
        raise ConfigError(f"uri {text!r} has no valid port: {err}") from err
    credentials, at, host = parts.netloc.rpartition("@")
    plain = parts._replace(scheme=scheme, netloc=credentials + at + host.lower())
    return Address(urlunsplit(plain).rstrip("/"), None)


def _parse_path(text: str) -> Address:
    path = Path(os.path.realpath(os.path.expanduser(text)))  # noqa: PTH111 - never raises
    if path.suffix != ".db":
        raise ConfigError(
            f"uri {text!r} must end in .db to be a Milvus Lite file (for example {text}.db), "
            f"or be a server such as http://localhost:19530"
        )
    return Address(str(path), path)
