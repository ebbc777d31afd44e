"""Turn an error into one sentence for users of the page, without paths or secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from t2i_pipelines.search.results.address import name_of
from t2i_pipelines.search.results.printable import printable

LONGEST = 300
"""Characters of a sentence."""

_START = r"(?<![\w.])(?:[A-Za-z][A-Za-z0-9+.-]*:/{1,3}|[A-Za-z]:[\\/]|~?[\\/])"
_QUOTED = re.compile(rf"(?P<quote>['\"`])(?P<path>{_START}.*?)(?P=quote)")
_BARE = re.compile(rf"{_START}[^\s'\"`,;()<>]+")
_SECRET = "•••"


def plainly(reason: object, settings: Mapping[str, Any], path: str = "") -> str:
    """A reason or an error in one sentence. Of a path or an address only its last part is named.

    :param settings: of what failed: their ``token`` is a secret, and so is what their ``uri`` holds of one.
    :param path: of the image that failed, where it is known; may hold blanks.
    """
    text = printable(reason)
    for secret in _secrets(settings):
        text = text.replace(secret, _SECRET)
    for known in (path, str(settings.get("uri") or ""), str(settings.get("checkpoint_path") or "")):
        if known and ("/" in known or "\\" in known):
            text = text.replace(printable(known), _name(known))
    text = _QUOTED.sub(lambda found: found["quote"] + _name(found["path"]) + found["quote"], text)
    text = _BARE.sub(lambda found: _name(found[0]), text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _name(path: str) -> str:
    """The last part; of a server's address the host and port."""
    whole = path.rstrip(":.!?")
    name = name_of(whole)
    if f"//{name}" in whole:
        name = name.rpartition("@")[2]
    return printable(name) + path[len(whole) :]


def _secrets(settings: Mapping[str, Any]) -> list[str]:
    """The token, and its password, longest first."""
    credentials = [str(settings.get("token") or "")]
    if found := re.match(r"\w+://([^/]*)@", str(settings.get("uri") or "")):
        credentials.append(found[1])
    parts = [part for one in credentials for part in (one, one.partition(":")[2])]
    return sorted(filter(None, parts), key=len, reverse=True)
