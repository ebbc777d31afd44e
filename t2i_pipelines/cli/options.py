"""Options of commands, derived from settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo

from t2i_pipelines.config.checks import Checked, Cli, first_sentence
from t2i_pipelines.config.settings import DEFAULT_MODEL, Settings

Source = Annotated[
    str,
    typer.Argument(
        help="A folder, a quoted glob, a table with a `path` or `url` column (CSV, TSV, JSON lines, "
        "Parquet), WebDataset tars, an image; here, at http(s)://, or where fsspec opens it, such as s3://."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Html = Annotated[Path | None, typer.Option(help="Write a self-contained page with the images.")]
Report = Annotated[
    Path | None, typer.Option("--report", help="Write counts and failures, with the stage of each, as JSON.")
]

MODEL_HELP = (
    f"Name (see `t2i models`) or path. Without it, the model of the collection; of a new collection "
    f"{DEFAULT_MODEL}, downloaded once. t2i_mini is bundled."
)
"""Of commands that keep the model they start with."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


def takes(
    *wanted: type[Checked] | str,
    of: type[Checked] = Settings,
    defaults: Mapping[str, Any] | None = None,
    helps: Mapping[str, str] | None = None,
) -> Callable[[_Command], _Command]:
    """Give a command an option for each setting, in place of its ``**settings``.

    :param wanted: classes of settings, or names of settings of ``of``.
    :param defaults: defaults that are not those of the settings.
    :param helps: helps that are not those of the settings.
    """
    chosen = list(_chosen(wanted, of))
    names = {one.name for one, _, _ in chosen}
    convert = {one.name: cli.convert for one, _, cli in chosen if cli.convert is not None}
    added = [_parameter(*one, defaults or {}, helps or {}) for one in chosen]

    def give(command: _Command) -> _Command:
        hints = get_type_hints(command, include_extras=True)
        own = [
            one.replace(annotation=hints[one.name], kind=Parameter.KEYWORD_ONLY)
            for one in signature(command).parameters.values()
            if one.kind is not Parameter.VAR_KEYWORD and one.name not in names
        ]
        arguments = [one for one in own if _is_argument(one.annotation)]
        parameters = [*arguments, *added, *(one for one in own if one not in arguments)]

        @wraps(command)
        def run(**given: Any) -> Any:
            for name, make in convert.items():
                given[name] = make(given[name])
            return command(**given)

        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run  # type: ignore[return-value]

    return give


def _chosen(
    wanted: tuple[type[Checked] | str, ...], of: type[Checked]
) -> Iterator[tuple[Field[Any], Any, Cli]]:
    for one in wanted:
        kind, names = (of, {one}) if isinstance(one, str) else (one, {own.name for own in fields(one)})
        hints = get_type_hints(kind)
        for own in fields(kind):
            if own.name in names:
                yield own, hints[own.name], own.metadata["cli"]


def _parameter(
    one: Field[Any], hint: Any, cli: Cli, defaults: Mapping[str, Any], helps: Mapping[str, str]
) -> Parameter:
    kind = hint if cli.kind is None else cli.kind
    flags = cli.flags or ((f"--{one.name.replace('_', '-')}",) if kind is bool else ())
    help = helps.get(one.name) or cli.help or first_sentence(one.metadata["help"])
    option = typer.Option(*flags, envvar=cli.envvar, help=help)
    default = one.default if cli.default is None else cli.default
    if default == ():
        default = None
    return Parameter(
        one.name,
        Parameter.KEYWORD_ONLY,
        default=defaults.get(one.name, default),
        annotation=Annotated[_read_as(kind), option],
    )


def _read_as(kind: Any) -> Any:
    """Return the type that Typer reads: choices as text, which the setting checks itself."""
    if get_origin(kind) is Literal:
        return str
    if kind == list[str]:
        return list[str] | None
    return kind


def _is_argument(annotation: Any) -> bool:
    return any(isinstance(one, ArgumentInfo) for one in get_args(annotation))
