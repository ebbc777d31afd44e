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
_NEEDS = {
    **dict.fromkeys(HEIF_SUFFIXES, "pip install 't2i-pipelines[heif]'"),
    **{f".{name}": "camera RAW, export as JPEG" for name in _RAW.split()},
    **{f".{name}": "video" for name in _VIDEO.split()},
    **{f".{name}": "not a decodable format, export as PNG or JPEG" for name in _OTHER.split()},
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
        slash with the path below the source. ``*`` matches slashes, too.
    :ivar skipped: takes the counts.
    """

    exclude: tuple[str, ...] = ()
    skipped: Skipped = field(default_factory=Skipped)

    @classmethod
    def of(cls, exclude: Sequence[str] = (), skipped: Skipped | None = None) -> Listing:
        """Build from the setting and a run's account."""
        return cls(tuple(exclude), Skipped() if skipped is None else skipped)

    def takes_folder(self, relative: str) -> bool:
        """Return whether to enter a folder; count it if not. Hidden folders are skipped uncounted.

        :param relative: its path below the source, parts joined by ``/``.
        """
        above, _, name = relative.rpartition("/")
        if name.startswith("."):
            return False
        small = name.lower()
        in_library = above.rpartition("/")[2].lower().endswith(_LIBRARIES)
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
        name = relative.rpartition("/")[2]
        if name.startswith("."):
            return False
        dot = name.rfind(".")
        suffix = name[dot:].lower() if dot > 0 else ""
        if suffix in image_suffixes():
            return not self.excludes(relative)
        reason = _NEEDS.get(suffix, "") if suffix else "list such files by name to read them"
        if reason and not self.excludes(relative):
            self.skipped.add(suffix or "without suffix", reason)
        return False

    def excludes(self, relative: str, *, folder: bool = False) -> bool:
        """Return whether one of the globs matches; count it then."""
        name = relative.rpartition("/")[2]
        for pattern in self.exclude:
            if fnmatchcase(relative if "/" in pattern else name, pattern):
                self.skipped.add(pattern, "excluded folder" if folder else "excluded")
                return True
        return False


def is_image(name: str) -> bool:
    """Return whether a file counts as an image by its suffix, and is not hidden."""
    dot = name.rfind(".")
    return dot > 0 and not name.startswith(".") and name[dot:].lower() in image_suffixes()
