"""The ``t2i`` command. Exit codes: 0 good, 1 some inputs failed, 2 wrong usage or no service, 130 Ctrl-C.

Commands are imported when they are called. ``t2i --help`` reads what they do from their files.
"""

from __future__ import annotations

import ast
import io
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module, metadata
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup
from typer.main import get_command

from t2i_pipelines.cli import console
from t2i_pipelines.errors import T2IError


class Command(NamedTuple):
    """Where a command is.

    :ivar panel: the heading that ``t2i --help`` lists it under.
    :ivar module: in this package.
    :ivar function: in that module; its docstring is the help.
    :ivar variables: options are read from environment variables that begin so.
    """

    panel: str
    module: str
    function: str
    variables: str = ""


_DAILY, _MODELS, _COLLECTIONS = "Every day", "Models and quality", "Collections"

COMMANDS = {
    "insert": Command(_DAILY, "insert", "insert"),
    "search": Command(_DAILY, "search", "search"),
    "sync": Command(_DAILY, "insert", "sync_"),
    "info": Command(_DAILY, "info", "info"),
    "duplicates": Command(_DAILY, "info", "duplicates"),
    "ui": Command(_DAILY, "ui", "ui"),
    "serve": Command(_DAILY, "serve", "run", "T2I"),
    "mcp": Command(_DAILY, "mcp", "run", "T2I"),
    "models": Command(_MODELS, "models", "show_models"),
    "eval": Command(_MODELS, "eval", "eval_"),
    "finetune": Command(_MODELS, "finetune", "tune"),
    "quantize": Command(_MODELS, "models", "make_int8"),
    "export": Command(_MODELS, "models", "export"),
    "reembed": Command(_COLLECTIONS, "reembed", "run"),
    "export-collection": Command(_COLLECTIONS, "copy", "run_export"),
    "import-collection": Command(_COLLECTIONS, "copy", "run_import"),
    "capacity": Command(_COLLECTIONS, "capacity", "show"),
    "demo": Command("To begin with", "demo", "demo"),
}
"""The commands in the order in which ``t2i --help`` lists them: that of a user's day."""


def load(name: str) -> Any:
    """Import a command."""
    place = COMMANDS[name]
    function = getattr(import_module(f"{__name__}.{place.module}"), place.function)
    alone = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
    context = {"auto_envvar_prefix": place.variables} if place.variables else None
    alone.command(name=name, context_settings=context)(function)
    return get_command(alone)


class Commands(Mapping[str, Any]):
    """The commands by name, each imported when it is asked for."""

    def __getitem__(self, name: str) -> Any:
        return load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)

    def __contains__(self, name: object) -> bool:
        return name in COMMANDS


class CommandGroup(TyperGroup):
    """Lists commands without importing them, and imports the one that is called."""

    _is_listing = False

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = Commands()  # type: ignore[assignment]

    def list_commands(self, ctx: Any) -> list[str]:
        """Return their names in order."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command; in a list, its name and help alone."""
        if cmd_name not in COMMANDS:
            return None
        return _listed(cmd_name) if self._is_listing else load(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of the group."""
        with self._listing():
            super().format_help(ctx, formatter)

    @contextmanager
    def _listing(self) -> Iterator[None]:
        self._is_listing = True
        try:
            yield
        finally:
            self._is_listing = False


def _listed(name: str) -> Any:
    place = COMMANDS[name]
    code = ast.parse((Path(__file__).parent / f"{place.module}.py").read_text(encoding="utf-8"))
    (function,) = (
        one for one in code.body if isinstance(one, ast.FunctionDef) and one.name == place.function
    )
    listed = typer.core.TyperCommand(name, help=ast.get_docstring(function))
    listed.rich_help_panel = place.panel
    return listed


app = typer.Typer(
    cls=CommandGroup,
    help="Text-to-image search: type words, get the matching images.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"t2i-pipelines {metadata.version('t2i-pipelines')}")
        raise typer.Exit


ENDED_AT_ONCE = ("insert", "sync", "mcp", "demo", "finetune", "reembed")
"""Commands that Ctrl-C may end at any moment: they leave nothing behind that must be cleaned up."""


@app.callback()
def _common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand not in ENDED_AT_ONCE:
        console.leave_to_python()


def main() -> None:
    """Run the command; an error of ours is one line on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal's encoding lacks is no traceback
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = lambda message, *_: console.err.print(console.plain(message), soft_wrap=True)
    try:
        app()
    except T2IError as err:
        console.err.print(f"[red]error:[/] {console.plain(str(err))}", soft_wrap=True)
        sys.exit(2)
