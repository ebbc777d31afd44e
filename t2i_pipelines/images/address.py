"""Addresses: what a record's ``path`` may be, and how to tell one kind from another.

::

    /photos/a.jpg                            a local file; file:// becomes this
    https://example.org/a.jpg                fetched, see images.fetch
    s3://bucket/a.jpg                        opened by fsspec
    tar://a.jpg::/shards/000.tar             a file in a tar, in fsspec's notation; the tar may be
    tar://a.jpg::s3://bucket/000.tar         anywhere
"""

from __future__ import annotations

import glob
import os
import re
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from t2i_pipelines.errors import ImageDecodeError, SourceError

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)(://|::.*://)", re.IGNORECASE)


def scheme(address: str) -> str:
    """``http``, ``s3`` and so on, in small letters; empty for a local path."""
    found = _SCHEME.match(address)
    return found[1].lower() if found else ""


def is_http(address: str) -> bool:
    """Return whether an HTTP server has it."""
    return scheme(address) in ("http", "https")


def is_remote(address: str) -> bool:
    """Return whether reading it means to wait for a network."""
    while scheme(address) == "tar":
        address = address.partition("::")[2]
    return scheme(address) not in ("", "file", "local")


def normal(given: str | os.PathLike[str]) -> str:
    """Return the address that is stored: local paths absolute, URLs as they are given.

    :raises SourceError: If it can never be opened: no host, or no such protocol.
    """
    address = os.fsdecode(os.fspath(given))
    kind = scheme(address)
    if not kind:
        return os.path.abspath(os.path.expanduser(address))
    if kind in ("file", "local"):
        return _local(address)
    if kind == "tar":
        member, archive = split_member(address)
        return f"tar://{member}::{normal(archive)}"
    if kind in ("http", "https"):
        parts = split_url(address)
        if not parts.hostname:
            raise SourceError(f"{address!r} names no host")
    else:
        _check_protocol(kind)
    return address


def split_url(address: str) -> SplitResult:
    """Split a URL, its port checked.

    :raises SourceError: If it is malformed, such as ``http://[img]x`` or a port of 99999.
    """
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError as err:
        raise SourceError(f"{address!r} is not a valid URL: {err}") from err
    return parts


def split_member(address: str) -> tuple[str, str]:
    """``tar://member::archive`` -> member, archive.

    :raises SourceError: If it is not of this form.
    """
    member, _, archive = address[len("tar://") :].partition("::")
    if not member or not archive:
        raise SourceError(f"{address!r} is not of the form tar://member::archive")
    return member, archive


def _local(address: str) -> str:
    parts = split_url(address)
    if parts.netloc not in ("", "localhost"):
        raise SourceError(f"{address!r} is a file of the machine {parts.netloc!r}; write file:///path")
    return os.path.abspath(unquote(parts.path))


def _check_protocol(kind: str) -> None:
    from fsspec import available_protocols

    if kind not in available_protocols():
        raise SourceError(f"no protocol {kind!r} is known; use a path, http(s)://, or one that fsspec knows")


def beside(base: str, given: str) -> str:
    """Return what ``given`` means in a table at the address ``base``.

    Relative paths start where the table is.
    """
    if scheme(given) or os.path.isabs(given) or given.startswith("~"):
        return given
    if is_http(base):
        return urljoin(base, quote(given, errors="replace"))
    folder = base.rpartition("/")[0] if scheme(base) else os.path.dirname(base)
    return os.path.join(folder, given)


def name_of(address: str) -> str:
    """Return the last part, in small letters, without the query of a URL.

    It shows the kind of the file.
    """
    if is_http(address):
        try:
            address = split_url(address).path
        except SourceError:
            return ""
    elif scheme(address):
        address = _file_link(address)
    return address.rpartition("/")[2].lower()


def below(folder: str, relative: str) -> str:
    """Return the address of a file in a remote folder.

    ``zip://folder::s3://...`` is extended at its front.
    """
    link = _file_link(folder)
    return folder.replace(link, f"{link}{'' if link.endswith('/') else '/'}{relative}", 1)


def is_pattern(address: str) -> bool:
    """Return whether a remote address has a wildcard where it names the file."""
    return glob.has_magic(_file_link(address))


def split_pattern(pattern: str) -> tuple[str, str]:
    """Return the folder above the first wildcard of a remote pattern, and the pattern from there on."""
    link = _file_link(pattern)
    parts = link.split("/")
    first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    folder = "/".join([*parts[:first], ""]) if first == 2 else "/".join(parts[:first])  # memory:// keeps both
    return pattern.replace(link, folder, 1), "/".join(parts[first:])


def _file_link(address: str) -> str:
    """Return what of a chain names the file: the second link of ``simplecache::s3://...``, else the first."""
    return next((link for link in address.split("::") if "://" in link), address)


MAX_BYTES = 64 << 20
"""Of one image's file, over HTTP, on a remote filesystem, or in a tar."""


def check_size(size: int) -> None:
    """Refuse an image that is too large.

    :param size: bytes, of the whole file or of what has been read so far.
    :raises ImageDecodeError: If it is more than ``MAX_BYTES``.
    """
    if size > MAX_BYTES:
        raise ImageDecodeError(
            f"larger than the {MAX_BYTES:,} bytes that an image from the web, a bucket or a tar may have; "
            "insert it from a local folder"
        )
