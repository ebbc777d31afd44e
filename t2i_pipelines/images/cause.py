"""What went wrong, in few words."""

from __future__ import annotations


def cause(err: BaseException) -> str:
    """What went wrong, in the system's words where there are such."""
    link: BaseException | None = err
    while link is not None:
        if isinstance(link, OSError) and link.strerror:
            return link.strerror
        if isinstance(link, FileNotFoundError):
            return "No such file or directory"
        link = link.__cause__ or link.__context__
    return str(err).partition("\n")[0] or type(err).__name__
