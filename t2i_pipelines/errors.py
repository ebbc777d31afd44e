"""Everything that can go wrong, drawn as one tree.

::

    T2IError
    ├── ConfigError (ValueError)            a setting is wrong: name, value and way out are in the message
    │   ├── UnknownModelError               no model of that name; lists the known ones
    │   └── UnknownOperatorError            a pipeline names an operator that is not registered locally
    ├── QueryError (ValueError)             a query is empty or of the wrong type
    ├── SourceError (ValueError)            nothing to read: missing or empty folder, CSV without `path`
    ├── ImageDecodeError (ValueError)       one image cannot be read; names file and cause
    ├── EncodeError (RuntimeError)          a model cannot embed what it was given
    ├── CheckpointError (ValueError)        weights are missing, truncated or of another model
    ├── FinetuneError (RuntimeError)        training went wrong; says at which step and what to change
    ├── DeletionRefusedError (RuntimeError) sync would delete more than a fifth of a collection
    ├── SwapRefusedError (RuntimeError)     reembed made a collection that should not take the old one's place
    ├── CopyError (RuntimeError)            an export cannot be written, or is not whole; names the file
    ├── MissingExtraError (ImportError)     an optional package is absent; names the extra
    ├── ClusterError (RuntimeError)         Ray cannot be reached, or gives up; says what to do
    └── StoreError (RuntimeError)           Milvus
        ├── StoreUnavailableError           the server does not answer; names the uri
        ├── StoreAuthError                  the server refuses the token
        ├── StoreTimeoutError               the server did not answer in time
        ├── StoreLockedError                the Milvus Lite file is held by another process
        ├── StoreFormatError                the file is not a Milvus Lite 3 database
        ├── CollectionNotFoundError         no collection of that name
        ├── ModelMismatchError              the collection was made with another model; shows both
        └── VectorError (ValueError)        wrong dimension, not finite, or zero

A hardened pipeline, as both builders return, raises these classes; a plain Towhee pipeline turns every
exception into ``RuntimeError(text)``. So each message names the culprit, its value and the way out.

What went wrong, in few words.
"""

from __future__ import annotations

from typing import Self


class T2IError(Exception):
    """Base of every error that this library raises on purpose."""


class ConfigError(T2IError, ValueError):
    """A setting is wrong."""


class UnknownModelError(ConfigError):
    """No model goes by that name."""


class UnknownOperatorError(ConfigError):
    """A pipeline names an operator that no local registration provides."""


class QueryError(T2IError, ValueError):
    """A query is empty, or not of a kind that can be searched for."""


class SourceError(T2IError, ValueError):
    """There is nothing to insert where the source points."""


class ImageDecodeError(T2IError, ValueError):
    """One image cannot be read."""


class EncodeError(T2IError, RuntimeError):
    """A model cannot embed what it was given."""


class CheckpointError(T2IError, ValueError):
    """Model weights are missing, truncated, or of another model."""


class FinetuneError(T2IError, RuntimeError):
    """Training went wrong: its loss is not a number, for example."""


class DeletionRefusedError(T2IError, RuntimeError):
    """``sync`` would delete so many rows that the source is more likely out of reach."""


class SwapRefusedError(T2IError, RuntimeError):
    """``reembed`` made a collection that failed its checks, so the name was not switched."""


class CopyError(T2IError, RuntimeError):
    """An export of a collection cannot be written, or read, or does not arrive as it was."""


class MissingExtraError(T2IError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""

    @classmethod
    def of(cls, package: str | None, extra: str) -> Self:
        """Say what is missing, and how to install it."""
        return cls(f"{package} is not installed; run: pip install 't2i-pipelines[{extra}]'")


class ClusterError(T2IError, RuntimeError):
    """Ray cannot be reached, or has given up on a piece of work."""


class StoreError(T2IError, RuntimeError):
    """Milvus refused, failed, or is misused."""


class StoreUnavailableError(StoreError):
    """The Milvus server does not answer."""


class StoreAuthError(StoreError):
    """The Milvus server refuses the token."""


class StoreTimeoutError(StoreError):
    """The Milvus server did not answer in time."""


class StoreLockedError(StoreError):
    """The Milvus Lite database is held by another process."""


class StoreFormatError(StoreError):
    """The file at the uri is not a Milvus Lite 3 database."""


class CollectionNotFoundError(StoreError):
    """The database has no collection of that name."""


class ModelMismatchError(StoreError):
    """The collection holds vectors of another model."""


class VectorError(StoreError, ValueError):
    """A vector has the wrong dimension, is not finite, or is zero."""


def cause(err: BaseException) -> str:
    """Return what went wrong, in the system's words where there are such."""
    link: BaseException | None = err
    while link is not None:
        if isinstance(link, OSError) and link.strerror:
            return link.strerror
        if isinstance(link, FileNotFoundError):
            return "No such file or directory"
        link = link.__cause__ or link.__context__
    return str(err).partition("\n")[0] or type(err).__name__
