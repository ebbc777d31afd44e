"""Write the reference of the command line, the HTTP service and Python: ``make reference``.

All are derived from the code: the commands by Typer's own generator, the routes from the OpenAPI document,
the names from each room's ``__all__``, whose docstrings Sphinx reads. A test compares the files with what
this module writes.
"""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

from typer import Context
from typer.cli import get_docs_for_click
from typer.main import get_command

import t2i_pipelines.testing  # noqa: F401 - registers the model without weights
from t2i_pipelines.cli import app
from t2i_pipelines.serve import ServeOptions, build_app

DOCS = Path(__file__).parents[1] / "docs" / "reference"
ROOMS = {
    "t2i_pipelines": "What a notebook needs",
    "t2i_pipelines.pipelines": "Insert and search",
    "t2i_pipelines.encoders": "Models",
    "t2i_pipelines.images": "Sources and images",
    "t2i_pipelines.collection": "Collections",
    "t2i_pipelines.operators": "Operators",
    "t2i_pipelines.config": "Settings in code",
    "t2i_pipelines.evaluate": "Evaluation",
    "t2i_pipelines.finetune": "Fine-tuning",
    "t2i_pipelines.jobs.ray": "Many machines",
    "t2i_pipelines.jobs.reembed": "A new model",
    "t2i_pipelines.serve": "HTTP service",
    "t2i_pipelines.ui": "Page",
    "t2i_pipelines.testing": "Tests of your own code",
    "t2i_pipelines.types": "Types",
}
"""Module of public names, and the heading of its page; a name has its place on the first page that has it."""

METHODS = ("get", "post", "put", "patch", "delete")


def command_line() -> str:
    """Return the text of ``docs/reference/cli.md``."""
    group = get_command(app)
    text: str = get_docs_for_click(
        obj=group, ctx=Context(group, info_name="t2i"), name="t2i", title="Command line"
    )
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+", "", text)
    head, _, rest = text.partition("\n\n")
    return f"{head}\n\nWritten by `make reference`.\n\n{html.unescape(rest).strip()}\n"


def http() -> str:
    """Return the text of ``docs/reference/http.md``."""
    service = build_app(ServeOptions(), uri="memory://reference", model_name="colour")
    document = service.openapi()
    schemas = document["components"]["schemas"]
    lines = [
        "# HTTP",
        "",
        "Routes of `t2i serve`, as its OpenAPI document at `/openapi.json` describes them; `/docs` shows "
        "them in a browser. Every error is a [problem](errors.md#over-http). Written by `make reference`.",
    ]
    for path, operations in document["paths"].items():
        for method in METHODS:
            if method in operations:
                lines += _route(method, path, operations[method], schemas)
    lines += ["", "## Models", ""]
    for name, schema in schemas.items():
        if properties := list(_fields(schema, schemas)):
            lines += [f"### {name}", "", " ".join(schema.get("description", "").split()), "", *properties, ""]
    return "\n".join(lines).rstrip() + "\n"


def _route(method: str, path: str, route: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", f"## {method.upper()} {path}", "", f"{route['summary']}.")
    if description := route.get("description", "").strip():
        yield from ("", " ".join(description.split()))
    if parameters := route.get("parameters"):
        yield from ("", "| parameter | in | type | meaning |", "| --- | --- | --- | --- |")
        for one in parameters:
            described = _cell(one.get("description") or one["schema"].get("description", ""))
            yield f"| `{one['name']}` | {one['in']} | {_type(one['schema'])} | {described} |"
    for kind, content in route.get("requestBody", {}).get("content", {}).items():
        yield from ("", f"Body, `{kind}`:", "", *_fields(content["schema"], schemas))
    for status, response in route["responses"].items():
        for kind, content in response.get("content", {}).items() if status < "300" else ():
            fields = list(_fields(content.get("schema", {}), schemas))
            yield from ("", f"Answer {status}, `{kind}`{':' if fields else '.'}")
            yield from ("", *fields) if fields else ()
    refused = [f"{status}" for status in route["responses"] if status >= "400"]
    if refused:
        yield from ("", f"Problems: {', '.join(refused)}.")


def _fields(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    properties = _resolved(schema, schemas).get("properties", {})
    if properties:
        yield from ("| field | type | meaning |", "| --- | --- | --- |")
    for name, one in properties.items():
        yield f"| `{name}` | {_type(one)} | {_cell(one.get('description', ''))} |"


def _resolved(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Mapping[str, Any]:
    return schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(one) for one in schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    kind = str(schema.get("type", "any"))
    return f"{kind} or file" if schema.get("format") == "binary" else kind


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def python() -> Iterator[tuple[str, str]]:
    """Yield the file name and the text of each page of Python names in ``docs/reference``."""
    placed: dict[int, str] = {}
    for module, heading in ROOMS.items():
        lines = [f"# {heading}", "", f"`{module}`. Written by `make reference`.", ""]
        for name, one in public(module):
            if isinstance(one, type | FunctionType) and id(one) in placed:
                lines += [f"- {{py:obj}}`{module}.{name} <{placed[id(one)]}>`"]
                continue
            placed[id(one)] = f"{module}.{name}"
            lines += ["", "```{eval-rst}", *_directive(f"{module}.{name}", one), "```"]
        yield f"{module.removeprefix('t2i_pipelines.').replace('.', '-')}.md", "\n".join(lines) + "\n"


def public(module: str) -> list[tuple[str, Any]]:
    """Return the public names of a module, and what they are; of operators, the classes."""
    imported = import_module(module)
    if module == "t2i_pipelines.operators":
        return [
            (f"{one.__module__.rpartition('.')[2]}.{one.__name__}", one)
            for one in imported.OPERATORS.values()
        ]
    return [(name, getattr(imported, name)) for name in imported.__all__]


def _directive(name: str, one: Any) -> list[str]:
    if isinstance(one, type):
        return [f".. autoclass:: {name}", "   :members:", "   :show-inheritance:"]
    return [f".. {'autofunction' if callable(one) else 'autodata'}:: {name}"]


def main() -> None:
    """Write the pages."""
    pages = {"cli.md": command_line(), "http.md": http()}
    pages |= {f"api/{name}": text for name, text in python()}
    for name, text in pages.items():
        (DOCS / name).write_text(text, encoding="utf-8")
    sys.stdout.write(f"wrote {len(pages)} pages in docs/reference\n")


if __name__ == "__main__":
    main()
