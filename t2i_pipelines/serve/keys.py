"""Keys and their scopes: who may read, and who may write.

A file of keys is TOML. It holds digests, from which no key can be derived::

    [keys.alice]                        # the name that the access log shows
    sha256 = "9f86d081884c7d65..."      # of the key: 64 hexadecimal digits
    scopes = ["read", "write"]

Make a key and its digest, and hand out the first line alone::

    KEY=$(openssl rand -base64 24); echo "$KEY"; printf %s "$KEY" | sha256sum

The file is read again as soon as it changes, so keys are added and revoked while the service runs.
"""

from __future__ import annotations

import hmac
import logging
import os
import stat
import time
import tomllib
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from t2i_pipelines.errors import ConfigError
from t2i_pipelines.serve.options import KEY_VARIABLE

Right = Literal["read", "write"]
"""A scope of a key; ``write`` does not contain ``read``."""

LOOK_AGAIN = 1.0
"""Seconds between two looks at whether the file has changed."""

MOST_BYTES = 1 << 20
"""Bytes of a file of keys: 8,000 of them."""

log = logging.getLogger("t2i_pipelines.serve")


class Key(NamedTuple):
    """What a key may do.

    :ivar name: what the access log shows.
    """

    name: str
    scopes: frozenset[Right]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-fA-F]{64}$")]
    scopes: frozenset[Right] = Field(min_length=1)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: dict[Annotated[str, StringConstraints(pattern=r"^[\w.-]{1,64}$")], _Entry] = Field(min_length=1)


class Keys:
    """The key of the environment, which may do everything, and those of a file.

    A file that becomes unreadable or wrong later changes nothing but the log.

    :raises ConfigError: If the file cannot be read, is wrong, or can be changed by everyone.
    """

    def __init__(self, api_key: str, file: str) -> None:
        self._own = {_digest(api_key): Key(KEY_VARIABLE, frozenset(("read", "write")))} if api_key else {}
        self._file = Path(file).expanduser() if file else None
        self._look_at, self._seen = time.monotonic() + LOOK_AGAIN, self._stamp()
        self._known = self._own | self._read()

    def __bool__(self) -> bool:
        """Return whether a key is needed."""
        return bool(self._known)

    def find(self, given: str) -> Key | None:
        """Return what a key may do, or None if it is none of them. It takes as long whichever it is."""
        self._refresh()
        digest, found = _digest(given), None
        for known, key in self._known.items():
            if hmac.compare_digest(known, digest):
                found = key
        return found

    def _refresh(self) -> None:
        if self._file is None or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_AGAIN
        if (stamp := self._stamp()) == self._seen:
            return
        self._seen = stamp
        try:
            self._known = self._own | self._read()
        except ConfigError as err:
            log.error("the keys stay as they were: %s", err)
        else:
            log.info("%s changed; %d keys are known", self._file, len(self._known))

    def _stamp(self) -> tuple[int, ...]:
        """Return what changes with the file, or nothing where it is not there."""
        try:
            found = self._file.stat() if self._file else None
        except OSError:
            found = None
        if found is None:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> dict[bytes, Key]:
        if self._file is None:
            return {}
        try:
            with self._file.open("rb") as file:
                mode, content = os.fstat(file.fileno()).st_mode, file.read(MOST_BYTES + 1)
        except OSError as err:
            raise ConfigError(f"cannot read the keys in {self._file}: {err.strerror}") from err
        if os.name == "posix" and mode & stat.S_IWOTH:
            raise ConfigError(f"everyone can change the keys in {self._file}; run: chmod o-rwx {self._file}")
        if os.name == "posix" and mode & stat.S_IROTH:
            log.warning("everyone can read the digests in %s; run: chmod o-rwx %s", self._file, self._file)
        if len(content) > MOST_BYTES:
            raise ConfigError(f"the keys in {self._file} have more than {MOST_BYTES:,} bytes")
        try:
            entries = _File.model_validate(tomllib.loads(content.decode())).keys
        except ValidationError as err:
            # neither pydantic's own message nor TOML's: they repeat what is there, which may be a key
            wrong = err.errors(include_input=False, include_context=False)[0]
            raise ConfigError(f"{self._file}: {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}") from None
        except ValueError:
            raise ConfigError(
                f'{self._file} is not TOML, as in [keys.alice] sha256 = "..." scopes = ["read"]'
            ) from None
        found = dict(self._own)
        for name, entry in entries.items():
            digest = entry.sha256.lower().encode()
            if digest in found:
                raise ConfigError(f"{self._file}: {name} has the same key as {found[digest].name}")
            found[digest] = Key(name, entry.scopes)
        return found


def _digest(key: str) -> bytes:
    return sha256(key.encode("latin-1", "replace")).hexdigest().encode()
