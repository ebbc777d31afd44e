"""Bind address, access control and limits of the service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from t2i_pipelines.config.checks import check_whole_number
from t2i_pipelines.config.search import MAX_LIMIT
from t2i_pipelines.config.settings import MAX_BATCH_SIZE
from t2i_pipelines.errors import ConfigError

KEY_VARIABLE = "T2I_API_KEY"
SHORTEST_KEY = 16
"""Characters: at 6 bits each, as ``openssl rand -base64 12`` gives them, 96 bits."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What may be chosen beside the pipelines' own settings. Every limit answers with a status of its own.

    :ivar host: address to listen on. On any but loopback, a key is needed.
    :ivar port: 1 to 65,535; 0 is any that is free.
    :ivar roots: folders, or ``NAME=FOLDER``. Only files in them, links followed, can be inserted or shown;
        clients call them by name, ``photos/2024/a.jpg``. A folder's name is its own unless given.
    :ivar allow_urls: let clients insert and search for images on the web, on public addresses.
    :ivar read_only: refuse to insert and to delete.
    :ivar api_key: what clients must know; from the environment, ``T2I_API_KEY``, and shown nowhere.
    :ivar max_body: bytes of a request (413).
    :ivar max_pixels: width times height of an uploaded or inserted image (422).
    :ivar max_query: characters of a text, an expression or a filter (422).
    :ivar max_page: hits of a query (422).
    :ivar max_queries: queries of a request (422).
    :ivar max_queue: queries that wait for the model (429). So none waits longer than it takes to answer
        ``max_queue + batch_size`` queries.
    :ivar max_requests: requests at a time (429).
    :ivar max_jobs: inserts that wait or run (429).
    :ivar batch_size: queries that are embedded and searched at once; 1 turns it off.
    :ivar batch_wait: seconds that a query waits for others while nothing else is done, at most.
    :ivar body_timeout: seconds in which a request must have come (408).
    :ivar drain: seconds that the end of the service waits for accepted inserts.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    roots: Sequence[str | Path] = ()
    allow_urls: bool = False
    read_only: bool = False
    api_key: str = field(default="", repr=False)
    max_body: int = 16 << 20
    max_pixels: int = 50_000_000
    max_query: int = 1000
    max_page: int = 100
    max_queries: int = 32
    max_queue: int = 256
    max_requests: int = 512
    max_jobs: int = 16
    batch_size: int = 32
    batch_wait: float = 0.01
    body_timeout: float = 30.0
    drain: float = 300.0

    def __post_init__(self) -> None:
        """Refuse what cannot work, or would let anybody in.

        :raises ConfigError: With the option, its value and what it may be.
        """
        check_whole_number("port", self.port, 65535, lowest=0)
        for name, highest in (
            ("max_body", 1 << 30),
            ("max_pixels", 2**40),
            ("max_query", 1 << 20),
            ("max_page", MAX_LIMIT),
            ("max_queries", 10_000),
            ("max_queue", 1_000_000),
            ("max_requests", 1_000_000),
            ("max_jobs", 10_000),
            ("batch_size", MAX_BATCH_SIZE),
        ):
            check_whole_number(name, getattr(self, name), highest)
        for name in ("batch_wait", "body_timeout", "drain"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be a number of seconds, got {getattr(self, name)!r}")
        if self.max_queue < self.max_queries:
            raise ConfigError(
                f"max_queue must be at least max_queries, got {self.max_queue} and {self.max_queries}: a "
                "request of that many queries would never be let in"
            )
        self._check_key()
        _ = self.named_roots

    def _check_key(self) -> None:
        if self.api_key and (
            len(self.api_key) < SHORTEST_KEY or not self.api_key.isascii() or not self.api_key.isprintable()
        ):
            raise ConfigError(
                f"the key in {KEY_VARIABLE} must have at least {SHORTEST_KEY} characters, all printable "
                "ASCII; openssl rand -base64 24 makes one"
            )
        if not self.api_key and not self.is_loopback:
            raise ConfigError(
                f"listening on {self.host!r} lets others in: set {KEY_VARIABLE} to a key that clients "
                "must know, or listen on 127.0.0.1"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def named_roots(self) -> dict[str, Path]:
        """Name -> absolute path of each root.

        :raises ConfigError: If one is no folder, or two have one name.
        """
        found: dict[str, Path] = {}
        for root in self.roots:
            name, path = _named(root)
            if not path.is_dir():
                raise ConfigError(f"a root must be a folder that is there, got {str(root)!r}")
            if name in found:
                raise ConfigError(
                    f"two roots are called {name!r}: {found[name]} and {path}; name one, as in "
                    f"--root {name}2={path}"
                )
            found[name] = path
        return found


def _named(root: str | Path) -> tuple[str, Path]:
    name, equals, folder = str(root).partition("=")
    if isinstance(root, Path) or not equals or "/" in name:
        name, folder = "", str(root)
    path = Path(folder).expanduser().absolute()
    name = name or path.resolve().name
    if not name or name in (".", "..") or not name.isprintable():
        raise ConfigError(f"the root {str(root)!r} needs a name, as in photos={folder}")
    return name, path
