"""WebDataset tars: images, each with the sidecar files that share its name, read from start to end.

As in the ``webdataset`` library, the files of one sample follow each other, and share the part of their names
before the first dot. Where several images share it, as ``IMG.2020.jpg`` and ``IMG.2021.jpg`` do, each has the
sidecars of its own name.
https://github.com/webdataset/webdataset
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from t2i_pipelines.errors import ImageDecodeError, SourceError, cause
from t2i_pipelines.images.address import check_size
from t2i_pipelines.images.files import open_binary
from t2i_pipelines.images.record import RESERVED, Listing, described, refused
from t2i_pipelines.types import Record

_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")
_JSON = frozenset({"json", "jsn"})
_TEXT = frozenset({"txt", "text", "transcript"})
_INT = frozenset({"cls", "cls2", "class", "count", "index", "inx", "id"})
_SIDECARS = _JSON | _TEXT | _INT

SIDECAR_BYTES = 1 << 20
"""Of one file beside an image. Milvus stores less."""


SAMPLE_BYTES = 64 << 20
"""Of images whose names share their first part, before all but the latest are handed on."""

_Stem = tuple[str, ...]
"""A name without its suffix, split at its dots: ``("dir/a", "2020")`` of ``dir/a.2020.jpg``."""


@dataclass
class _Sidecar:
    """A file with columns for the images that share its name.

    :ivar fields: the columns, of a JSON object.
    :ivar text: the value of its one column, of any other file.
    :ivar wrong: why it could not be read.
    """

    stem: _Stem
    suffix: str
    fields: dict[str, Any] = field(default_factory=dict)
    text: Any = None
    wrong: str = ""


@dataclass
class _Sample:
    """The files whose names share the part before the first dot, as far as they have been read.

    A sidecar belongs to each image whose name extends its own: ``a.json`` to ``a.jpg`` and ``a.seg.png``,
    and ``a.2020.json`` to ``a.2020.jpg`` alone. Where it extends an image's name itself, as ``a.caption.txt``
    does ``a.jpg``, it belongs to the image with the longest name. An image that is alone has
    all of them.
    """

    key: str
    images: list[tuple[_Stem, tarfile.TarInfo, bytes | ImageDecodeError]] = field(default_factory=list)
    held: int = 0
    stems: set[_Stem] = field(default_factory=set)
    within: set[_Stem] = field(default_factory=set)
    sidecars: dict[_Stem, list[_Sidecar]] = field(default_factory=dict)
    longer: dict[_Stem, list[_Sidecar]] = field(default_factory=dict)

    def add_image(self, stem: _Stem, member: tarfile.TarInfo, content: bytes | ImageDecodeError) -> None:
        """Take an image."""
        self.images.append((stem, member, content))
        self.held += len(content) if isinstance(content, bytes) else 0
        self.stems.add(stem)
        self.within |= {stem[:end] for end in range(1, len(stem) + 1)}

    def add_sidecar(self, sidecar: _Sidecar) -> None:
        """Take a file with columns."""
        self.sidecars.setdefault(sidecar.stem, []).append(sidecar)
        for end in range(1, len(sidecar.stem)):
            self.longer.setdefault(sidecar.stem[:end], []).append(sidecar)

    def metadata(self, stem: _Stem) -> tuple[dict[str, Any], str]:
        """Return an image's columns, and the reason why they are wrong."""
        found: dict[str, Any] = {}
        wrong = ""
        for end in range(1, len(stem) + 1):
            for one in self.sidecars.get(stem[:end], ()):
                found |= _columns(one, one.suffix)
                wrong = wrong or one.wrong
        for one in self.longer.get(stem, ()) if len(self.stems) > 1 else self._others(stem):
            nearer = (one.stem[:end] in self.stems for end in range(len(stem) + 1, len(one.stem) + 1))
            if one.stem not in self.within and not any(nearer):
                name = one.stem[len(stem) :] if one.stem[: len(stem)] == stem else one.stem[1:]
                found |= _columns(one, "_".join((*name, one.suffix)))
                wrong = wrong or one.wrong
        return found, wrong

    def _others(self, stem: _Stem) -> Iterator[_Sidecar]:
        """Yield the sidecars that do not share the whole of an only image's name."""
        for sidecars in self.sidecars.values():
            yield from (one for one in sidecars if one.stem != stem[: len(one.stem)])

    def give(self, *, keep: _Stem | None = None) -> Iterator[tuple[_Stem, tarfile.TarInfo, Any]]:
        """Hand on the images, but those with the name ``keep``, whose sidecars may be still to come."""
        waiting = [one for one in self.images if one[0] == keep]
        for one in self.images:
            if one[0] != keep:
                yield one
        self.images = waiting
        self.held = sum(len(one[2]) for one in waiting if isinstance(one[2], bytes))


def rows(address: str, listing: Listing) -> Iterator[Record]:
    """Yield the images of a tar, compressed or not, with their bytes.

    A ``.json`` object beside an image becomes columns; ``.txt``, ``.cls`` and the like become columns
    of these names. Further files are skipped.

    :raises SourceError: If the tar cannot be opened, or holds no image.
    """
    found = _rows(address, listing)
    try:
        first = next(found)
    except StopIteration:
        summary = listing.skipped.summary()
        raise SourceError(f"no image in the tar {address!r}{'; ' + summary if summary else ''}") from None
    except SourceError:
        raise
    except Exception as err:  # no tar, a damaged one, or a remote file that breaks off
        raise SourceError(f"cannot read the tar {address!r}: {cause(err)}") from err
    return _until_it_breaks_off(first, found, address)


def count(address: str) -> None:
    """Only reading a tar tells how many images it has."""


def _until_it_breaks_off(first: Record, found: Iterator[Record], address: str) -> Iterator[Record]:
    yield first
    try:
        yield from found
    except Exception as err:  # damaged tars and remote files break off in many ways
        yield refused(address, f"the tar {address} breaks off: {cause(err)}")


def _rows(address: str, listing: Listing) -> Iterator[Record]:
    stream = open_binary(address)
    with stream, tarfile.open(fileobj=stream, mode="r|*", bufsize=1 << 20) as tar:
        sample = _Sample("")
        folder, enters = "", True
        for member in tar:
            tar.members = []  # type: ignore[attr-defined] # else they pile up
            name = _NAME.fullmatch(member.name)
            if not member.isreg() or name is None:
                continue
            if (above := member.name.rpartition("/")[0]) != folder:
                folder, enters = above, _enters(above, listing, folder, enters)
            if not enters:
                continue
            if name[1] != sample.key:
                yield from _records(sample, sample.give(), address)
                sample = _Sample(name[1])
            stem, suffix = (name[1], *name[2].split(".")[:-1]), name[2].rpartition(".")[2]
            _take(sample, tar, member, stem, suffix, listing)
            if sample.held > SAMPLE_BYTES:
                yield from _records(sample, sample.give(keep=stem), address)
        yield from _records(sample, sample.give(), address)


def _enters(folder: str, listing: Listing, before: str, entered: bool) -> bool:
    """Return whether to read the files of a folder, as a listing would; count one that is skipped once.

    :param before: the folder of the file before, which was ``entered`` or not.
    """
    parts = [part for part in folder.split("/") if part not in ("", ".")]
    seen = [part for part in before.split("/") if part not in ("", ".")]
    for end in range(1, len(parts) + 1):
        again = parts[:end] == seen[:end]
        counted = Listing(listing.exclude) if again and not entered else listing
        if not counted.enters("/".join(parts[:end])):
            return False
    return True


def _take(
    sample: _Sample, tar: tarfile.TarFile, member: tarfile.TarInfo, stem: _Stem, suffix: str, listing: Listing
) -> None:
    kind = suffix.lower()
    if kind not in _SIDECARS:
        if listing.takes_file(member.name):
            sample.add_image(stem, member, _content(tar, member))
        return
    sidecar = _Sidecar(stem, suffix)
    if member.size > SIDECAR_BYTES:
        sidecar.wrong = f"{member.name} beside it is larger than {SIDECAR_BYTES:,} bytes"
    else:
        file = tar.extractfile(member)
        try:
            _parse(sidecar, kind, file.read() if file else b"")
        except (ValueError, RecursionError) as err:
            sidecar.wrong = f"{member.name} beside it is not {'JSON' if kind in _JSON else 'UTF-8'}: {err}"
    sample.add_sidecar(sidecar)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | ImageDecodeError:
    try:
        check_size(member.size)
    except ImageDecodeError as err:
        return err
    file = tar.extractfile(member)
    return file.read() if file else b""


def _parse(sidecar: _Sidecar, kind: str, content: bytes) -> None:
    if kind in _JSON:
        value = json.loads(content)
        if isinstance(value, dict):
            sidecar.fields = value
        else:
            sidecar.text = value
        return
    text = content.decode().strip()
    sidecar.text = int(text) if kind in _INT and re.fullmatch(r"-?[0-9]{1,18}", text) else text


def _columns(sidecar: _Sidecar, name: str) -> dict[str, Any]:
    """Return a sidecar's columns: a JSON object's own, or one of this name."""
    if sidecar.text is not None:
        return {name: sidecar.text}
    reserved = RESERVED - {"id"}
    return {f"{name}_{key}" if key in reserved else key: one for key, one in sidecar.fields.items()}


def _records(
    sample: _Sample, images: Iterator[tuple[_Stem, tarfile.TarInfo, Any]], address: str
) -> Iterator[Record]:
    for stem, member, content in images:
        place = f"tar://{member.name}::{address}"
        metadata, wrong = sample.metadata(stem)
        wrong = "a name with `::` has no address; rename it" if "::" in member.name else wrong
        if wrong:
            yield refused(place, f"cannot read image {place}: {wrong}")
            continue
        record = described(place, metadata, size=member.size, mtime=int(member.mtime * 10**9))
        if isinstance(content, bytes):
            record.content = content
        else:
            record.fail(f"cannot read image {place}: {content}")
        yield record
