"""Arguments and results of the tools of the MCP server, and how much of what is stored they show."""

from __future__ import annotations

import json
from inspect import Parameter
from typing import Annotated, Any, TypeAlias

from mcp.types import CallToolResult
from pydantic import BaseModel, Field, create_model

from t2i_pipelines.search.render import printable
from t2i_pipelines.serve.schemas import Found, SearchRequest, StoredImage

LONGEST_SIDE = 1024
"""Pixels of an image that an assistant looks at, at most; 512 where it does not ask."""

VALUE = 500
"""Characters of a value of a column, as it is shown."""

FIELDS, ALL_FIELDS = 2_000, 20_000
"""Characters of the columns of an image: of a hit, and of one that is looked at."""

SAMPLE, EXAMPLES = 500, 5
"""Rows that are read to learn which columns there are, and values of each that are shown."""

_FIELDS = SearchRequest.model_fields
_SHOWN = ("limit", "offset", "where", "filter", "min_relevance")
"""Options of a search that tools take."""


def _argument(name: str) -> Parameter:
    """Return an argument of a tool that is a field of a search over HTTP."""
    field = _FIELDS[name]
    kind: Any = Annotated[(field.annotation, *field.metadata, Field(description=field.description))]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=field.default, annotation=kind)


OPTIONS = [_argument(name) for name in _SHOWN]


_SAID = {
    "path": "The file, or its URL; by the name of its folder where folders are named, null if in none.",
    "fields": "What is stored with it.",
}


def _without_links(model: type[BaseModel]) -> Any:
    """Return a model of the HTTP service without addresses there."""
    kept = {
        name: (one.annotation, Field(description=_SAID.get(name, one.description)))
        for name, one in model.model_fields.items()
        if name != "links"
    }
    return create_model(model.__name__, __doc__=model.__doc__, **kept)  # type: ignore[call-overload]


Hit: Any = _without_links(Found)
Stored: Any = _without_links(StoredImage)


class SearchResult(BaseModel):
    """Hits, best first."""

    images: list[Hit]
    no_match: bool | None = Field(description="Whether the best hit has a relevance below 0.1.")


class Column(BaseModel):
    """A column that conditions may name."""

    name: str
    types: list[str] = Field(description="Of its values, most frequent first.")
    examples: list[Any]
    share: float = Field(description="Part of these images that have it, 0 to 1.")


class Description(BaseModel):
    """A collection."""

    images: int = Field(description="How many are stored.")
    model_name: str | None = Field(description="The model that embedded them; null where nothing is stored.")
    columns: list[Column] = Field(description=f"Of the first {SAMPLE} images.")
    folders: list[str] = Field(description="Names that paths of search_by_image begin with.")


Seen: TypeAlias = Annotated[CallToolResult, Stored]

_IN = "NAME is one of the folders that describe_collection lists."
Text: TypeAlias = Annotated[str | None, Field(description=_FIELDS["text"].description)]
Expression: TypeAlias = Annotated[str | None, Field(description=_FIELDS["expression"].description)]
File: TypeAlias = Annotated[str | None, Field(description=f"An image, as in NAME/2024/dog.jpg; {_IN}")]
Data: TypeAlias = Annotated[str | None, Field(description="An image's file in base64, in place of a path.")]
Source: TypeAlias = Annotated[
    str, Field(description=f"A file or a folder (searched recursively), as in NAME/2024; {_IN}")
]
Refresh: TypeAlias = Annotated[bool, Field(description="Read unchanged files again.")]
Side: TypeAlias = Annotated[int, Field(ge=64, le=LONGEST_SIDE, description="In pixels, at most.")]
Id: TypeAlias = Annotated[str, Field(description="The id of a hit.")]
InsertId: TypeAlias = Annotated[str, Field(description="The id that insert_images returned.")]


def bounded(fields: dict[str, Any], most: int) -> dict[str, Any]:
    """Return columns with values of a bounded length, in ``most`` characters; says how many are left out."""
    shown: dict[str, Any] = {}
    for name, value in fields.items():
        name, value = printable(name), _cut(value)
        most -= len(name) + len(str(value))
        if most < 0:
            shown["..."] = f"{len(fields) - len(shown)} more columns, left out for their length"
            break
        shown[name] = value
    return shown


def _cut(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return printable(value, VALUE)
    text = json.dumps(value, default=str, ensure_ascii=False)
    return json.loads(text) if len(text) <= VALUE else printable(text, VALUE)


def column_of(name: str, values: list[Any], rows: int) -> Column:
    """Return a column of ``rows`` images, of which some have ``values``."""
    kinds = [type(value).__name__ for value in values]
    examples = {json.dumps(one, default=str): one for one in map(_cut, values)}
    return Column(
        name=printable(name),
        types=sorted(set(kinds), key=lambda kind: (-kinds.count(kind), kind)),
        examples=list(examples.values())[:EXAMPLES],
        share=round(len(values) / rows, 3),
    )
