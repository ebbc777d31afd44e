"""Read any source into records.

Everything streams: a record is made when it is asked for. What is wrong with the source as a whole is
an error before the first record; what is wrong with one row is that row's outcome.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Protocol

from t2i_pipelines.errors import MissingExtraError, SourceError, cause
from t2i_pipelines.images import folder, parquet, remote, tables, webdataset
from t2i_pipelines.images.address import is_http, is_pattern, name_of, normal, scheme
from t2i_pipelines.images.record import Listing, brief, path_key, record_of, refused
from t2i_pipelines.images.scratch import Scratch, Spill
from t2i_pipelines.images.tables import plain_name
from t2i_pipelines.types import Record, Skipped

__all__ = ["count", "distinct_records", "listed", "path_key", "records"]

_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_AT_ONCE = 16
"""Remote shards that are looked for at the same time."""


class _Reader(Protocol):
    """A reader of one kind of file with many rows; see :class:`~.tables.TableReader`."""

    @property
    def rows(self) -> Callable[[str, Listing], Iterator[object]]: ...

    @property
    def count(self) -> Callable[[str], int | None]: ...


_TABLES: dict[str, _Reader] = {
    ".csv": tables.DELIMITED,
    ".tsv": tables.DELIMITED,
    ".jsonl": tables.JSON_LINES,
    ".ndjson": tables.JSON_LINES,
    ".parquet": parquet,
}


def records(
    source: object, *, exclude: Sequence[str] = (), skipped: Skipped | None = None
) -> Iterator[Record]:
    """Read a source. Ids depend on nothing but path (or ``id``).

    A source is one of:

    * a folder, searched recursively; a glob such as ``photos/**/*.jpg``; one image;
    * a table with a column ``path`` or ``url``: ``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``. Relative
      paths start where the table is;
    * WebDataset tars, ``shard-{000..099}.tar`` for many;
    * any of these on what fsspec opens, such as ``s3://bucket/photos``; an image, a table or a tar at
      ``http(s)://``;
    * an iterable of paths and URLs, also of tables and tars, or of rows (mappings with a ``path`` or a
      ``url``).

    A column ``id`` becomes the primary key; any other column becomes metadata. A record's ``path`` is an
    absolute path, a URL, or ``tar://member::tar``; :func:`t2i_pipelines.images.read` reads each.

    A folder that cannot be listed, a file that cannot be opened and a row that cannot be understood are
    failed records; the rest is read.

    :param exclude: globs of files and folders to skip, such as ``thumbs`` or ``2019/*``; see
        :class:`~t2i_pipelines.images.record.Listing`.
    :param skipped: counts skipped files, such as videos and thumbnails of NAS systems.
    :raises SourceError: If there is nothing to read; before the first record.
    :raises MissingExtraError: If fsspec needs a package for it that is not installed.
    """
    listing = Listing.of(exclude, skipped)
    rows = _rows(source, listing)
    try:
        first = next(rows)
    except StopIteration:
        raise SourceError(f"the source is empty: {brief(source)} names no image{_but(listing)}") from None
    return map(record_of, chain([first], rows))


def _has_no_repeats(source: object) -> bool:
    """Return whether each row has a path of its own: folders and globs list each file once."""
    if isinstance(source, Listed):
        return True
    if not isinstance(source, (str, os.PathLike)):
        return False
    address = os.fsdecode(os.fspath(source))
    return _reader(address) is None or os.path.isdir(address)


def distinct_records(
    source: object, *, exclude: Sequence[str] = (), skipped: Skipped | None = None
) -> Iterator[Record]:
    """Read a source as :func:`records` does, and end each record whose id an earlier one has.

    Of several rows with one path, or one ``id``, the first counts, since one primary key holds one image. A
    later row of the same image is ``skipped``: a further caption, for example. One of another image fails,
    for it is not stored. The ids of a table, a tar or a list are kept, beyond 64 MiB in a temporary file.
    """
    skipped = Skipped() if skipped is None else skipped
    found = records(source, exclude=exclude, skipped=skipped)
    return found if _has_no_repeats(source) else _without_repeats(found, skipped)


def _without_repeats(found: Iterator[Record], skipped: Skipped) -> Iterator[Record]:
    paths = Scratch("CREATE TABLE paths (id TEXT PRIMARY KEY, path TEXT) WITHOUT ROWID")
    for record in found:
        if record.id:
            earlier = paths.ask("SELECT path FROM paths WHERE id = ?", record.id)
            if not earlier:
                paths.ask("INSERT INTO paths VALUES (?, ?)", record.id, record.path)
            elif earlier == [(record.path,)]:
                record.skip("an earlier row has the same image; give each row an `id` to store all of them")
                skipped.add("repeated rows", record.reason)
            else:
                record.fail(
                    f"id {record.id!r} of {record.path} is already that of another row of the source; "
                    "ids must be unique"
                )
        yield record


def count(source: object, *, exclude: Sequence[str] = ()) -> int | None:
    """Return how many records a source has; None where only reading all of it would tell.

    Opens no image, lists nothing that is remote, and reads of a Parquet file only its end. Local
    folders are listed, and local text tables read, once.

    :raises SourceError: As :func:`records` does.
    """
    if not isinstance(source, (str, os.PathLike)):
        return len(source) if isinstance(source, (list, tuple, Listed)) else None
    address = _address(source)
    if (reader := _reader(address)) and not os.path.isdir(address):
        return None if _names_many(address) else reader.count(address)
    if scheme(address):
        return 1 if is_http(address) else None
    return sum(1 for _ in _rows(address, Listing.of(exclude)))


_AT_A_TIME = 1000


class Listed:
    """A local folder or glob that is listed once, also where it is counted before it is read.

    The paths wait in memory up to 16 MiB, beyond that in a temporary file.

    :raises SourceError: If there is no image; all but the first is listed later.
    """

    def __init__(self, source: object, exclude: Sequence[str] = ()) -> None:
        self._source, self._listing = source, Listing.of(exclude)
        self._rows = _rows(source, self._listing)
        self._waiting = Spill()

    def __repr__(self) -> str:
        return repr(self._source)

    def __len__(self) -> int:
        while rows := list(islice(self._rows, _AT_A_TIME)):
            self._waiting.add(rows)
        return len(self._waiting)

    def rows(self, skipped: Skipped) -> Iterator[object]:
        """Return the paths, and add the skipped files of the listing to a run's account."""
        len(self)
        skipped.update(self._listing.skipped)
        return iter(self._waiting)


def listed(source: object, *, exclude: Sequence[str] = ()) -> object:
    """Return a source to be counted and then read; a local folder or glob as :class:`Listed`.

    A local table is checked; a list, an iterator or a remote source is returned as it is.

    :raises SourceError: If there is nothing to read.
    """
    if not isinstance(source, (str, os.PathLike)) or scheme(_address(source)):
        return source
    if _has_no_repeats(source):
        return Listed(source, exclude)
    next(records(source, exclude=exclude))
    return source


def shards(source: str | os.PathLike[str]) -> list[str]:
    """Return the tables or tars that a source names by braces or wildcards; none if it is anything else.

    :raises SourceError: If one that braces name is missing.
    """
    address = _address(source)
    if not _reader(address) or not _names_many(address):
        return []
    if "{" in address:
        return _braces(address)
    if is_http(address) or scheme(address) == "tar":
        return []
    listing = Listing()
    found = remote.glob_rows(address, listing) if scheme(address) else folder.glob_rows(address, listing)
    return [normal(one.path if isinstance(one, Record) else one) for one in found]


def is_table(item: object) -> bool:
    """Return whether an item of a list names a table or a tar, which has many rows."""
    if not isinstance(item, (str, os.PathLike)):
        return False
    try:
        return _reader(os.fsdecode(os.fspath(item))) is not None
    except Exception:  # a path object of another library: its record says what is wrong
        return False


def _rows(source: object, listing: Listing) -> Iterator[object]:
    if isinstance(source, (str, os.PathLike)):
        return _rows_at(_address(source), listing)
    if isinstance(source, Listed):
        return source.rows(listing.skipped)
    if isinstance(source, (Mapping, Record)):
        return iter([source])
    if isinstance(source, Iterable) and not isinstance(source, (bytes, bytearray)):
        return chain.from_iterable(_item(item, listing) for item in source)
    raise SourceError(
        f"a source is a folder, a glob, a table, a tar, a URL, or a list of paths or rows; "
        f"got {type(source).__name__} {brief(source)}"
    )


def _item(item: object, listing: Listing) -> Iterable[object]:
    """Return one item of a list: itself, or the rows of the table or tar that it names."""
    if is_table(item):
        return _each([os.fsdecode(os.fspath(item))], listing)  # type: ignore[call-overload]
    return [item]


def _address(source: str | os.PathLike[str]) -> str:
    given = os.fsdecode(os.fspath(source))
    if not given:
        raise SourceError("the source is an empty string; name a folder, a glob, a table, a tar or a URL")
    return normal(given) if scheme(given) else os.path.expanduser(given)


def _reader(address: str) -> _Reader | None:
    """Return who reads a file of this name, if it is one with many rows."""
    if name_of(address).endswith(_TARS):
        return webdataset
    return _TABLES.get(os.path.splitext(plain_name(address))[1])


def _names_many(address: str) -> bool:
    """Return whether a name has braces or wildcards, and does not happen to be a file's own."""
    if scheme(address):
        return "{" in address or is_pattern(address)
    return ("{" in address or glob.has_magic(address)) and not os.path.exists(address)


def _rows_at(address: str, listing: Listing) -> Iterator[object]:
    if "{" in address and _reader(address) and _names_many(address):
        return _each(_braces(address), listing)
    if is_http(address) or scheme(address) == "tar":
        return _file(address, listing)
    return _remote(address, listing) if scheme(address) else _local(address, listing)


def _local(path: str, listing: Listing) -> Iterator[object]:
    if os.path.isdir(path):
        rows = folder.folder_rows(path, listing)
        return _or_empty(rows, f"no image in folder {path!r}", listing)
    if os.path.isfile(path):
        return _file(os.path.abspath(path), listing)
    if glob.has_magic(path):
        found = folder.glob_rows(path, listing)
        matches: Iterator[object] = _each(found, listing) if _reader(path) else found
        return _or_empty(matches, f"no file matches the glob {path!r}", listing)
    if os.path.lexists(path):
        return iter([path])  # a pipe, a device or a broken link: its record says so
    where = "" if os.path.isabs(path) else f" (looked in {os.getcwd()!r})"
    raise SourceError(f"no such folder or file: {path!r}{where}")


def _remote(address: str, listing: Listing) -> Iterator[object]:
    found = remote.look_at(address)
    if found is not None and found["type"] == "directory":
        return _or_empty(remote.folder_rows(address, listing), f"no image in folder {address!r}", listing)
    if found is not None:
        return _file(address, listing) if _reader(address) else iter([remote.file_row(address, found)])
    if is_pattern(address):
        matches = remote.glob_rows(address, listing)
        return _or_empty(
            _each(matches, listing) if _reader(address) else matches,
            f"no file matches the glob {address!r}",
            listing,
        )
    raise SourceError(f"no such folder or file: {address!r}")


def _file(address: str, listing: Listing) -> Iterator[object]:
    reader = _reader(address)
    return reader.rows(address, listing) if reader else iter([address])


def _braces(pattern: str) -> list[str]:
    from braceexpand import braceexpand

    try:
        named = [normal(one) for one in braceexpand(pattern, escape=False)]
    except ValueError as err:
        raise SourceError(f"the braces in {pattern!r} are not balanced: {err}") from err
    with ThreadPoolExecutor(_AT_ONCE, "t2i-shards") as pool:
        missing = [one for one, there in zip(named, pool.map(_is_there, named), strict=True) if not there]
    if missing:
        raise SourceError(f"{len(missing)} of {len(named)} files are missing, the first is {missing[0]!r}")
    return named


def _is_there(address: str) -> bool:
    """Return whether there is such a file. An HTTP server is asked when its turn comes."""
    if is_http(address):
        return True
    return remote.look_at(address) is not None if scheme(address) else os.path.isfile(address)


def _each(addresses: Iterable[str | Record], listing: Listing) -> Iterator[object]:
    """Yield the rows of many files; one that cannot be read is one failed row."""
    for one in addresses:
        if isinstance(one, Record) and one.status is not None:
            yield one  # a folder that cannot be listed
            continue
        address = one.path if isinstance(one, Record) else one
        try:
            yield from _file(normal(address), listing)
        except (SourceError, MissingExtraError) as err:
            yield refused(address, str(err))


def _or_empty(rows: Iterator[object], message: str, listing: Listing) -> Iterator[object]:
    try:
        first = next(rows)
    except StopIteration:
        raise SourceError(message + _but(listing)) from None
    except OSError as err:
        raise SourceError(f"cannot list folder {err.filename!r}: {cause(err)}") from err
    return chain([first], rows)


def _but(listing: Listing) -> str:
    return f"; {summary}" if (summary := listing.skipped.summary()) else ""
