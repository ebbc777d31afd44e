"""WebDataset tars: pictures, each with the files beside it that share its name, read from start to end.

Names are split, and suffixes read, as the ``webdataset`` library does: ``dir/000.seg.png`` is the file
``seg.png`` of the sample ``dir/000``; files of one sample follow each other.
https://github.com/webdataset/webdataset
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from t2i_pipelines.errors import ImageDecodeError, SourceError
from t2i_pipelines.images.cause import cause
from t2i_pipelines.images.limits import check_size
from t2i_pipelines.images.opening import open_binary
from t2i_pipelines.images.sources.folder import is_picture
from t2i_pipelines.images.sources.record import RESERVED, described, refused
from t2i_pipelines.types import Record

_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")
_JSON = frozenset({"json", "jsn"})
_TEXT = frozenset({"txt", "text", "transcript"})
_INT = frozenset({"cls", "cls2", "class", "count", "index", "inx", "id"})
_SIDECARS = _JSON | _TEXT | _INT

SIDECAR_BYTES = 1 << 20
"""Of one file beside a picture. Milvus stores less."""


@dataclass
class _Sample:
    """The files that share a name, as far as they have been read."""

    key: str
    pictures: list[tuple[tarfile.TarInfo, bytes | ImageDecodeError]] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    wrong: str = ""


def rows(address: str) -> Iterator[Record]:
    """The pictures of a tar, packed or not, with their bytes.

    A ``.json`` object beside a picture becomes columns; ``.txt``, ``.cls`` and the like become columns
    of these names. Further files are passed over.

    :raises SourceError: If the tar cannot be opened, or holds no picture.
    """
    found = _rows(address)
    try:
        first = next(found)
    except StopIteration:
        raise SourceError(f"no picture in the tar {address!r}") from None
    except SourceError:
        raise
    except Exception as err:  # no tar, a damaged one, or a remote file that breaks off
        raise SourceError(f"cannot read the tar {address!r}: {cause(err)}") from err
    return _until_it_breaks_off(first, found, address)


def count(address: str) -> None:
    """Only reading a tar tells how many pictures it has."""


def _until_it_breaks_off(first: Record, found: Iterator[Record], address: str) -> Iterator[Record]:
    yield first
    try:
        yield from found
    except Exception as err:  # damaged tars and remote files break off in many ways
        yield refused(address, f"the tar {address} breaks off: {cause(err)}")


def _rows(address: str) -> Iterator[Record]:
    stream = open_binary(address)
    with stream, tarfile.open(fileobj=stream, mode="r|*", bufsize=1 << 20) as tar:
        for sample in _samples(tar):
            yield from _records(sample, address)


def _samples(tar: tarfile.TarFile) -> Iterator[_Sample]:
    sample = _Sample("")
    for member in tar:
        tar.members = []  # type: ignore[attr-defined] # else they pile up
        name = _NAME.fullmatch(member.name)
        if name is None or not member.isreg():
            continue
        if name[1] != sample.key:
            yield sample
            sample = _Sample(name[1])
        _take(sample, tar, member, name[2])
    yield sample


def _take(sample: _Sample, tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str) -> None:
    if is_picture("x." + suffix):
        sample.pictures.append((member, _content(tar, member)))
    elif (kind := suffix.rpartition(".")[2].lower()) in _SIDECARS:
        if member.size > SIDECAR_BYTES:
            sample.wrong = f"{member.name} beside it is larger than {SIDECAR_BYTES:,} bytes"
            return
        file = tar.extractfile(member)
        try:
            _add(sample.metadata, suffix.replace(".", "_"), kind, file.read() if file else b"")
        except (ValueError, RecursionError) as err:
            sample.wrong = f"{member.name} beside it is not {'JSON' if kind in _JSON else 'UTF-8'}: {err}"


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | ImageDecodeError:
    try:
        check_size(member.size)
    except ImageDecodeError as err:
        return err
    file = tar.extractfile(member)
    return file.read() if file else b""


def _add(metadata: dict[str, Any], name: str, kind: str, content: bytes) -> None:
    if kind in _JSON:
        value = json.loads(content)
        if isinstance(value, dict):
            for key, one in value.items():
                metadata[f"{name}_{key}" if key in RESERVED - {"id"} else key] = one
        else:
            metadata[name] = value
        return
    text = content.decode().strip()
    if kind in _INT and re.fullmatch(r"-?[0-9]{1,18}", text):
        metadata[name] = int(text)
    else:
        metadata[name] = text


def _records(sample: _Sample, address: str) -> Iterator[Record]:
    for member, content in sample.pictures:
        place = f"tar://{member.name}::{address}"
        wrong = "a name with `::` has no address; rename it" if "::" in member.name else sample.wrong
        if wrong:
            yield refused(place, f"cannot read image {place}: {wrong}")
            continue
        record = described(place, sample.metadata, size=member.size, mtime=int(member.mtime * 10**9))
        if isinstance(content, bytes):
            record.content = content
        else:
            record.fail(f"cannot read image {place}: {content}")
        yield record
