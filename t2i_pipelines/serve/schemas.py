"""Models of requests and responses."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_type_hints

from pydantic import (
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    JsonValue,
    create_model,
    field_validator,
    model_validator,
)

from t2i_pipelines.config.checks import first_sentence
from t2i_pipelines.config.search import SearchOptions
from t2i_pipelines.types import Stage

Scalar: TypeAlias = str | int | float | bool | None
Operator: TypeAlias = Literal["==", "!=", ">", ">=", "<", "<=", "in", "not in", "like", "contains"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=255)]
"""A column's; Milvus has none that is longer."""


class Strict(BaseModel):
    """A request: what it does not know is a mistake."""

    model_config = ConfigDict(extra="forbid")


class Condition(Strict):
    """A condition on a field."""

    op: Operator
    value: Scalar | list[Scalar]


class Asked(Strict):
    """A query: words, an expression, a stored image, an image of your own, or the sum of several."""

    text: str | None = Field(None, description="Words to search for.", examples=["a white dog"])
    expression: str | None = Field(
        None,
        description="A sum of words, images and `like:ID`; double quotes protect words. Images are "
        "`./NAME/file.jpg` in a folder that is served and, where URLs are allowed, `https://...`.",
        examples=["golden retriever^2 + ./photos/pool.jpg - fruit"],
    )
    like: str | None = Field(None, description="Id of a stored image, to find similar ones.")
    image: Base64Bytes | None = Field(None, description="An image file, in base64.")

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked for."""
        return (self.text, self.expression, self.like, self.image) == (None, None, None, None)


_TYPES: dict[str, Any] = {
    "where": dict[Name, Scalar | Condition | list[Condition]] | None,
    "output_fields": Annotated[list[Name], Field(max_length=64)],
    "group_by": Name | None,
}
"""Options of a search whose JSON has another type than the setting."""

_MORE: dict[str, dict[str, Any]] = {
    "where": {
        "description": "Column -> the value it must have, or a condition, or several. All must hold.",
    },
    "filter": {"examples": ["year > 2015"]},
}


def _option(one: Any, hint: Any) -> Any:
    """Return the type and field of an option of a search, for pydantic."""
    kind = _TYPES.get(one.name, hint)
    if float in (kind, *get_args(kind)):
        kind = Finite | None if type(None) in get_args(kind) else Finite
    lowest = getattr(one.metadata["check"], "keywords", {}).get("lowest") if hint is int else None
    described = {"description": first_sentence(one.metadata["help"]), **_MORE.get(one.name, {})}
    return kind, Field([] if one.default == () else one.default, ge=lowest, **described)


_HINTS = get_type_hints(SearchOptions)
_Options: Any = create_model(
    "_Options", **{one.name: _option(one, _HINTS[one.name]) for one in fields(SearchOptions)}
)


class SearchRequest(Asked, _Options):  # type: ignore[misc]
    """One query, or up to 32 as `queries`, and which of their hits are wanted."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "a white dog", "limit": 3},
                {
                    "expression": "golden retriever^2 + beach - people",
                    "where": {"year": {"op": ">", "value": 2015}},
                },
                {"queries": [{"text": "a boat"}, {"like": "6f1ed002ab5595859014ebf0951522d9"}], "limit": 5},
            ]
        }
    )

    queries: list[Asked] | None = Field(None, description="Several queries instead of one.", min_length=1)

    @model_validator(mode="after")
    def _asks_for_something(self) -> SearchRequest:
        if self.queries is None and self.is_empty:
            raise ValueError("nothing is asked for: give text, expression, like, image, or queries")
        if self.queries is not None:
            if not self.is_empty:
                raise ValueError("give one query or `queries`, not both")
            if any(one.is_empty for one in self.queries):
                raise ValueError("a query is empty: give text, expression, like or image")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The options of the search, as they were sent."""
        return {one.name: getattr(self, one.name) for one in fields(SearchOptions)}

    @property
    def asked(self) -> list[Asked]:
        """Each query."""
        return [self] if self.queries is None else list(self.queries)


class Links(BaseModel):
    """Links of an image."""

    image: str = Field(examples=["/v1/images/6f1ed002ab5595859014ebf0951522d9"])
    file: str = Field(examples=["/v1/images/6f1ed002ab5595859014ebf0951522d9/file"])
    thumbnail: str = Field(examples=["/v1/images/6f1ed002ab5595859014ebf0951522d9/thumbnail"])


class Found(BaseModel):
    """A hit."""

    id: str = Field(examples=["6f1ed002ab5595859014ebf0951522d9"])
    score: float = Field(description="Cosine similarity, -1 to 1.", examples=[0.31])
    relevance: float | None = Field(description="0 to 1; null where nothing was calibrated.", examples=[0.93])
    path: str | None = Field(
        description="The file, by the name of its folder, or its URL; null if in no folder that is served.",
        examples=["photos/2024/dog.jpg"],
    )
    fields: dict[str, Any] = Field(description="The `output_fields` that the image has.")
    links: Links


class Result(BaseModel):
    """The hits of a query, best first."""

    hits: list[Found]
    no_match: bool | None = Field(description="Whether the best hit has a relevance below 0.1.")


class SearchResponse(BaseModel):
    """One result for each query, in their order."""

    results: list[Result]


class StoredImage(BaseModel):
    """A stored image."""

    id: str
    path: str | None = Field(description="As in a hit.")
    fields: dict[str, Any] = Field(description="Its metadata.")
    links: Links


class InsertRequest(Strict):
    """What to insert: what a path names, or images on the web."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"source": "photos/2024"}, {"urls": ["https://example.org/a.jpg"], "refresh": True}]
        }
    )

    source: str | None = Field(
        None,
        description="A file, a folder (searched recursively), a table or a tar in a folder that is served, "
        "by that folder's name.",
    )
    urls: list[str] | None = Field(
        None, description="Images on the web, if URLs are allowed.", min_length=1, max_length=10_000
    )
    refresh: bool = Field(False, description="Read unchanged files again.")

    @model_validator(mode="after")
    def _names_one(self) -> InsertRequest:
        if (self.source is None) == (self.urls is None):
            raise ValueError("give either source or urls")
        return self


class FailedInput(BaseModel):
    """An input that was not inserted."""

    path: str | None = Field(description="As in a hit.")
    id: str
    stage: Stage | Literal[""] = Field(description="Stage that failed.")
    reason: str
    filename: str | None = Field(None, description="Name of an uploaded file.", examples=["dog.jpg"])


class SkippedFiles(BaseModel):
    """Files or folders of a source that are no input."""

    kind: str = Field(description="A suffix, or the name of a folder.", examples=[".mp4"])
    reason: str
    count: int


class JobError(BaseModel):
    """Why an insert broke off; as in a problem."""

    code: str
    detail: str


JobStatus: TypeAlias = Literal["waiting", "running", "done", "failed", "cancelled", "interrupted"]


class JobSummary(BaseModel):
    """An insert, without the inputs that failed."""

    id: str = Field(examples=["9f86d081884c7d65"])
    status: JobStatus = Field(
        description="`done`: every input has an outcome, failures included; `failed`: it broke off; "
        "`cancelled`: a client stopped it; `interrupted`: the service ended first."
    )
    source: str | None = Field(description="As requested; null for URLs and uploads.")
    counts: dict[str, int] = Field(description="Inputs so far, by outcome.", examples=[{"inserted": 41}])
    error: JobError | None = None
    created: datetime
    started: datetime | None = None
    finished: datetime | None = None


class JobReport(JobSummary):
    """Status of an insert."""

    skipped: list[SkippedFiles] = Field(description="Files that are no inputs, by kind.")
    failed: list[FailedInput] = Field(description="The first 1,000 failures.")
    seconds_by_stage: dict[str, float] = Field(description="Busy seconds; stages run at the same time.")


class JobList(BaseModel):
    """Inserts, newest first."""

    jobs: list[JobSummary]


class UploadForm(BaseModel):
    """Images to insert, and their metadata."""

    image: list[bytes] = Field(description="Image files, at most 1,000.", min_length=1, max_length=1000)
    fields: str | None = Field(
        None,
        description="JSON: an object with the metadata of all images, or a list with one object for each "
        "file, in their order. `id` sets the id of an image, which is otherwise made from its bytes. The "
        "column `filename` has the name of the file.",
        json_schema_extra={"contentMediaType": "application/json"},
        examples=['{"album": "2024"}', '[{"id": "dog-1", "year": 2015}, {"id": "dog-2"}]'],
    )


PIXEL = "data:image/gif;base64,R0lGODdhAQABAIEAAP8AAAAAAAAAAAAAACwAAAAAAQABAAAIBAABBAQAOw=="
"""An image of one pixel."""


class ImageFilter(Strict):
    """Which images are meant."""

    filter: str = Field(
        "", description="Milvus filter expression on their metadata.", examples=["year > 2015"]
    )
    where: Json[dict[Name, Scalar | Condition | list[Condition]]] | None = Field(
        None,
        description="JSON: column -> the value it must have, or a condition, or several. All must hold, and "
        "`filter` as well.",
        examples=['{"year": {"op": ">", "value": 2015}}'],
    )


class ImagesRequest(ImageFilter):
    """A page of the images that are stored."""

    limit: int = Field(20, ge=1, description="Maximum number of images per page.")
    cursor: str | None = Field(
        None, max_length=256, description="`next_cursor` of the previous page; without it, the first page."
    )
    output_fields: list[Name] = Field(
        ["*"], max_length=64, description="Metadata to show; `*` is all. Repeat it for several."
    )


class ImagesResponse(BaseModel):
    """A page of images, in the order of their ids."""

    images: list[StoredImage]
    next_cursor: str | None = Field(
        description="Cursor of the next page; null on the last.",
        examples=["YWZ0ZXIgZG9n"],
    )


class ImagesCount(BaseModel):
    """Number of stored images."""

    count: int = Field(examples=[1234])


class ImagesDeleted(BaseModel):
    """Number of deleted images."""

    deleted: int = Field(examples=[12])


class ImageUpdate(Strict):
    """Changes of an image's metadata."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"fields": {"place": "Rome", "year": 2016, "draft": None}}]}
    )

    fields: dict[Name, JsonValue] = Field(
        description="Column -> its new value; null removes the column. Others stay as they are.",
        min_length=1,
    )

    @field_validator("fields")
    @classmethod
    def _check_numbers(cls, fields: dict[str, Any]) -> dict[str, Any]:
        if nan := [name for name, value in fields.items() if value != value]:
            raise ValueError(f"{nan[0]} is NaN, which is no JSON; null removes a column")
        return fields


class Column(BaseModel):
    """A column of the metadata."""

    name: str = Field(examples=["year"])
    type: Literal["string", "integer", "number", "boolean", "array", "object", "mixed"] = Field(
        description="JSON Schema type of its values; `mixed` if images differ."
    )


class Columns(BaseModel):
    """The columns that some images have."""

    columns: list[Column]
    rows: int = Field(description="Number of images that were read.", examples=[1000])
    complete: bool = Field(description="Whether all images were read; others may have further columns.")


class ValueCount(BaseModel):
    """A value of a column."""

    value: Scalar = Field(examples=[2015])
    count: int = Field(description="Number of the read images that have it.", examples=[41])


class ColumnValues(BaseModel):
    """The most common values of a column, most common first."""

    column: str = Field(examples=["year"])
    values: list[ValueCount]
    rows: int = Field(description="Number of images that were read.", examples=[10_000])
    complete: bool = Field(description="Whether all images were read; others may have further values.")


class EmbeddingsRequest(Strict):
    """Texts or images to embed, as OpenAI's clients and Infinity send them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"input": ["a white dog", "a boat"]},
                {"input": PIXEL, "modality": "image", "encoding_format": "base64"},
            ]
        }
    )

    input: str | Annotated[list[str], Field(min_length=1)] = Field(
        description="One or several texts or images. Images are data URIs, base64, or URLs where URLs are "
        "allowed. Token ids are refused."
    )
    model: str | None = Field(None, description="The model of this service; may be left out.")
    modality: Literal["text", "image"] = Field("text", description="Kind of `input`.")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="Numbers, or base64 of float32, little-endian."
    )
    dimensions: int | None = Field(None, ge=1, description="The model's dimension; vectors are never cut.")
    user: str | None = Field(None, description="Ignored.")

    @property
    def inputs(self) -> list[str]:
        """Each input."""
        return [self.input] if isinstance(self.input, str) else self.input


class Embedding(BaseModel):
    """The vector of an input, of length 1."""

    object: Literal["embedding"] = "embedding"
    index: int = Field(description="Index of the input, from 0.")
    embedding: list[float] | str = Field(examples=[[0.6, 0.8]])


class Usage(BaseModel):
    """Tokens of the texts; 0 for images, and if the model does not count."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """One vector for each input, in their order."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str = Field(examples=["t2i_mini"])
    usage: Usage


class Health(BaseModel):
    """State of the service."""

    status: Literal["ok"] = "ok"
