"""Bind address, access control and limits of the service."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

from t2i_pipelines.config.checks import REPEATABLE, Checked, Cli, described, flag, setting, whole_number
from t2i_pipelines.config.search import MAX_LIMIT
from t2i_pipelines.config.settings import MAX_BATCH_SIZE
from t2i_pipelines.errors import ConfigError

LogFormat = Literal["text", "json"]

KEY_VARIABLE = "T2I_API_KEY"
SHORTEST_KEY = 16
"""Characters: at 6 bits each, as ``openssl rand -base64 12`` gives them, 96 bits."""


def _seconds(name: str, value: Any) -> None:
    if not 0 <= value < float("inf"):
        raise ConfigError(f"{name} must be a number of seconds, got {value!r}")


def _root_path(name: str, value: Any) -> None:
    if not isinstance(value, str) or not re.fullmatch(r"(/[\w.~-]+)*", value, re.ASCII):
        raise ConfigError(
            f"{name} begins with a slash and does not end with one, as in /search; got {value!r}"
        )


def _folder(name: str, value: Any) -> None:
    if value is not None and not str(value).strip():
        raise ConfigError(f"{name} must be a folder, got {value!r}")


def _share(name: str, value: Any) -> None:
    if not 0.01 <= value <= 1:
        raise ConfigError(f"{name} must be a share from 0.01 to 1, got {value!r}")


@described
@dataclass(kw_only=True)
class ServeOptions(Checked):
    """Bind address, access control and limits of the service. Each limit has a status of its own."""

    host: str = setting("127.0.0.1", f"Address to listen on; any but loopback needs a key in {KEY_VARIABLE}.")
    port: int = setting(
        8000, "Port to listen on; 0 takes any free one. To 65,535.", whole_number(65535, lowest=0)
    )
    roots: Sequence[str | Path] = setting(
        (),
        "Folder whose files can be inserted and shown, or NAME=FOLDER. Only files in them, links followed. "
        "Clients name files by it, as in photos/2024/dog.jpg. A folder's name is its own unless given.",
        cli=replace(
            REPEATABLE,
            flags=("--root",),
            envvar="T2I_ROOT",
            help="Folder whose files can be inserted and shown, or NAME=FOLDER; repeatable. Clients name "
            "files by it, as in photos/2024/dog.jpg.",
        ),
    )
    uploads: str | Path | None = setting(
        None,
        "Folder for uploaded images, or NAME=FOLDER. It is made if it is missing, and served "
        "as a root; without it, uploads get 403.",
        _folder,
        cli=Cli(kind=str | None, help="Folder for uploaded images, or NAME=FOLDER."),
    )
    allow_urls: bool = setting(
        False, "Let clients insert and ask for images on the web. On public addresses.", flag
    )
    read_only: bool = setting(False, "Refuse to insert, to update and to delete.", flag)
    api_key: str = setting(
        "",
        f"Key that clients must send. From the environment, {KEY_VARIABLE}, and shown nowhere.",
        repr=False,
    )
    keys_file: str = setting(
        "",
        "File of further keys with scopes, as TOML. ``[keys.NAME]`` with ``sha256``, the digest of the key, "
        'and ``scopes = ["read", "write"]`` or one of them. It is read again when it changes.',
        cli=Cli(flags=("--keys",), envvar="T2I_KEYS"),
    )
    cors_origins: Sequence[str] = setting(
        (),
        "Origin whose pages may use the service, as in https://photos.example. With a key, * is any.",
        cli=replace(
            REPEATABLE,
            flags=("--cors-origin",),
            envvar="T2I_CORS_ORIGIN",
            help="Origin whose pages may use the service, as in https://photos.example; repeatable. With a "
            "key, * is any.",
        ),
    )
    root_path: str = setting(
        "",
        "Path prefix that a proxy removes, as in /search. Links and the docs begin with it.",
        _root_path,
    )
    forwarded_allow_ips: str = setting(
        "",
        "Proxies whose X-Forwarded-For and X-Forwarded-Proto are believed. Addresses and networks, with "
        "commas between; with a key, * is any. Of others these headers are ignored.",
        cli=Cli(help="Proxies whose X-Forwarded-For and -Proto are trusted: addresses, networks, or *."),
    )
    max_body: int = setting(16 << 20, "Maximum bytes of a request. More get 413.", whole_number(1 << 30))
    max_pixels: int = setting(
        50_000_000,
        "Maximum pixels of an image. Width times height of an uploaded or inserted one; more get 422.",
        whole_number(2**40),
    )
    max_query: int = setting(
        1000,
        "Maximum characters of a text. Of an expression or a filter, too; more get 422.",
        whole_number(1 << 20),
    )
    max_page: int = setting(100, "Maximum number of hits per query. More get 422.", whole_number(MAX_LIMIT))
    max_queries: int = setting(32, "Queries of a request. More get 422.", whole_number(10_000))
    max_queue: int = setting(
        256,
        "Maximum of waiting queries; more get 429. So none waits longer than it takes to answer ``max_queue "
        "+ batch_size`` queries.",
        whole_number(1_000_000),
    )
    max_requests: int = setting(512, "Maximum of concurrent requests; more get 429.", whole_number(1_000_000))
    max_connections: int = setting(
        1024,
        "Maximum of connections; beyond it, the one idle longest is closed. At most half as many as the "
        "process may open files.",
        whole_number(1_000_000),
    )
    max_jobs: int = setting(16, "Maximum of unfinished inserts; more get 429.", whole_number(10_000))
    state: str | Path | None = setting(
        None,
        "Folder that keeps jobs across restarts; each service needs its own. Without it, they are in a file "
        "next to a local database, FILE.db.jobs, and with a Milvus server in memory only.",
        _folder,
        cli=Cli(kind=str | None),
    )
    insert_share: float = setting(
        0.2,
        "Share of the time that an insert works while searches come. From 0.01; 1 is without pauses, and "
        "searches wait longer.",
        _share,
    )
    batch_size: int = setting(
        32,
        "Maximum number of queries per batch; 1 searches one by one.",
        whole_number(MAX_BATCH_SIZE),
    )
    batch_wait: float = setting(
        0.01, "Seconds that a query waits for others, at most. While nothing else is done.", _seconds
    )
    body_timeout: float = setting(30.0, "Seconds in which a request must have come. Else 408.", _seconds)
    drain: float = setting(300.0, "Seconds to wait for accepted inserts at the end.", _seconds)

    def __post_init__(self) -> None:
        """Refuse what cannot work, or would admit anyone.

        :raises ConfigError: With the option, its value and what it may be.
        """
        super().__post_init__()
        if self.max_queue < self.max_queries:
            raise ConfigError(
                f"max_queue must be at least max_queries, got {self.max_queue} and {self.max_queries}: a "
                "request of that many queries would never be let in"
            )
        self._check_key()
        self._check_origins()
        _ = self.named_roots

    def _check_key(self) -> None:
        if self.api_key and (
            len(self.api_key) < SHORTEST_KEY or not self.api_key.isascii() or not self.api_key.isprintable()
        ):
            raise ConfigError(
                f"the key in {KEY_VARIABLE} must have at least {SHORTEST_KEY} characters, all printable "
                "ASCII; openssl rand -base64 24 makes one"
            )
        if self.api_key or self.keys_file:
            return
        if not self.is_loopback:
            raise ConfigError(
                f"listening on {self.host!r} lets others in: set {KEY_VARIABLE} to a key that clients "
                "must know, or listen on 127.0.0.1"
            )
        for name in ("cors_origins", "forwarded_allow_ips"):
            if "*" in getattr(self, name):
                raise ConfigError(
                    f"without a key, {name} cannot be '*'; name each one, or set {KEY_VARIABLE} to a key "
                    "that clients must know"
                )

    def _check_origins(self) -> None:
        for one in self.cors_origins:
            if one != "*" and not re.fullmatch(r"https?://(\[[0-9a-f:]+\]|[a-z0-9.-]+)(:\d+)?", one):
                raise ConfigError(
                    "cors_origins are each a scheme, a host in lower case, and a port unless it is the usual "
                    f"one, as in https://photos.example; got {one!r}"
                )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def uploads_folder(self) -> Path | None:
        """Absolute path of the folder of uploads."""
        return None if self.uploads is None else _named(self.uploads)[1]

    @property
    def named_roots(self) -> dict[str, Path]:
        """Name -> absolute path of each root.

        :raises ConfigError: If one is no folder, or two have one name.
        """
        found: dict[str, Path] = {}
        own = [] if self.uploads is None else [self.uploads]
        for number, root in enumerate([*own, *self.roots]):
            name, path = _named(root)
            if number >= len(own) and not path.is_dir():
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
