"""What the listing of a folder, a bucket or a tar takes, and what it skips and counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from t2i_pipelines.images.header import HEIF_SUFFIXES, image_suffixes
from t2i_pipelines.stages import Skipped

_RAW = (
    "3fr arw cr2 cr3 crw dcr dng erf gpr iiq k25 kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw "
    "x3f"
)
_VIDEO = "3g2 3gp avi flv m2ts m4v mkv mov mp4 mpeg mpg mts ogv ts vob webm wmv"
_OTHER = "ai cdr clip djvu eps exr fits hdr jxl jxr kra pdf psb svg svgz wdp wmf emf xcf"
_NO_SUFFIX = "without suffix"
_NEEDS = {
    **dict.fromkeys(HEIF_SUFFIXES, "pip install 't2i-pipelines[heif]'"),
    **{f".{name}": "camera RAW, export as JPEG" for name in _RAW.split()},
    **{f".{name}": "video" for name in _VIDEO.split()},
    **{f".{name}": "not a decodable format, export as PNG or JPEG" for name in _OTHER.split()},
    _NO_SUFFIX: "list such files by name to read them",
}
"""Suffix -> why such a file is skipped, although it looks like a photo or a video."""

_SYSTEM_FOLDERS = frozenset(
    {"@eadir", "#recycle", "@recycle", "@recently-snapshot", "#snapshot", "@sharebin", "$recycle.bin"}
    | {"recycler", "system volume information", "lost+found", "__macosx"}
)
"""Thumbnails, snapshots and bins of Synology, QNAP, Windows, Linux and macOS, in small letters."""

_SYSTEM_SUFFIXES = (".lrdata", ".lrcat-data", ".cocatalog", ".tmlibrary")
"""Preview caches of Lightroom, Capture One and Photos."""

_LIBRARIES = (".photoslibrary", ".photolibrary", ".aplibrary", ".migratedphotolibrary")
_ORIGINALS = frozenset(("originals", "masters"))
"""What of a library of Apple Photos or Aperture is the user's own; the rest is derived from it."""


@dataclass(frozen=True)
class Listing:
    """Decide which files and folders a listing takes, and count what it skips.

    Without ``exclude``, thumbnails, previews and bins of NAS and photo programs are skipped. To read such a
    folder, name it as the source.

    :ivar exclude: globs; one without a slash is compared with the name of each file and folder, one with a
        slash with the path below the source, of a glob the part from its first wildcard on. ``*`` matches
        slashes, too. As in a ``.gitignore``, ``drafts/`` is a folder, ``/drafts`` one at the top of the
        source, ``**/drafts`` one at any depth, and ``drafts/**`` all that is in one at the top.
    :ivar skipped: takes the counts.
    """

    exclude: tuple[str, ...] = ()
    skipped: Skipped = field(default_factory=Skipped)

    @classmethod
    def of(cls, exclude: Sequence[str] = (), skipped: Skipped | None = None) -> Listing:
        """Build from the setting and a run's account."""
        return cls(tuple(exclude), Skipped() if skipped is None else skipped)

    def takes_folder(self, relative: str, within: str = "") -> bool:
        """Return whether to enter a folder; count it if not. Hidden folders are skipped uncounted.

        :param relative: its path below the source, parts joined by ``/``.
        :param within: name of the source.
        """
        return not relative.rpartition("/")[2].startswith(".") and self.enters(relative, within)

    def enters(self, relative: str, within: str = "") -> bool:
        """Return whether to enter a folder, hidden or not; count it if not. See :meth:`takes_folder`."""
        above, _, name = relative.rpartition("/")
        small = name.lower()
        in_library = (above or within).rpartition("/")[2].lower().endswith(_LIBRARIES)
        if (
            small in _SYSTEM_FOLDERS
            or small.endswith(_SYSTEM_SUFFIXES)
            or (in_library and small not in _ORIGINALS)
        ):
            self.skipped.add(f"{name}/", "thumbnails or bin")
            return False
        return not self.excludes(relative, folder=True)

    def takes_file(self, relative: str) -> bool:
        """Return whether a file is an image to read; count it if it only looks like one."""
        if relative.rpartition("/")[2].startswith("."):
            return False
        kind = kind_of(relative)
        if kind in image_suffixes():
            return not self.excludes(relative)
        reason = _NEEDS.get(kind, "")
        if reason and not self.excludes(relative):
            self.skipped.add(kind, reason)
        return False

    def excludes(self, relative: str, *, folder: bool = False) -> bool:
        """Return whether one of the globs matches; count it then."""
        for pattern in self.exclude:
            if _matches(pattern, relative, folder):
                self.skipped.add(pattern, "excluded folder" if folder else "excluded")
                return True
        return False


def _matches(pattern: str, relative: str, folder: bool) -> bool:
    wanted = pattern.removesuffix("/").removesuffix("/**")
    if wanted != pattern and not folder:
        wanted = pattern  # a folder's files are compared with ``drafts/**``, which ends a path of theirs
    anchored = "/" in pattern.rstrip("/") and not wanted.startswith("**/")
    wanted = wanted.removeprefix("./").removeprefix("/")
    while wanted.startswith("**/"):
        wanted = wanted.removeprefix("**/")
    if "/" not in wanted and not anchored:
        return fnmatchcase(relative.rpartition("/")[2], wanted)
    return fnmatchcase(relative, wanted) or (not anchored and fnmatchcase(relative, f"*/{wanted}"))


def kind_of(path: str) -> str:
    """Return the suffix of a file in small letters, as it is counted."""
    name = path.rpartition("/")[2]
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else _NO_SUFFIX
