"""``t2i models``, ``t2i export`` and ``t2i quantize``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from t2i_pipelines.cli import console
from t2i_pipelines.config.settings import DEFAULT_MODEL
from t2i_pipelines.encoders import ModelInfo, load_encoder, models, named, recommend
from t2i_pipelines.encoders.models import bare
from t2i_pipelines.encoders.onnx import OnnxEncoder
from t2i_pipelines.encoders.places import check
from t2i_pipelines.encoders.quantize import quantize
from t2i_pipelines.encoders.registry import registered
from t2i_pipelines.encoders.weights import HubEncoder
from t2i_pipelines.errors import CheckpointError, ConfigError
from t2i_pipelines.types import EXACT

if TYPE_CHECKING:
    from t2i_pipelines.encoders.torch_encoder import TorchEncoder

MANY = 6
MEGABYTE = 1e6


def show_models(
    language: Annotated[
        list[str] | None, typer.Option(help="Recommend the best model for this language; repeatable.")
    ] = None,
    max_ms: Annotated[float, typer.Option(help="With --language: maximum `ms`.")] = 20,
    memory: Annotated[float | None, typer.Option(help="With --language: maximum `MiB`.")] = None,
    licence: Annotated[
        list[str] | None, typer.Option(help="With --language: a licence that you accept; repeatable.")
    ] = None,
    check_: Annotated[
        str | None,
        typer.Option(
            "--check",
            metavar="NAME",
            help="Check whether this model can be loaded here, and from where.",
        ),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="List models without published scores, too.")] = False,
) -> None:
    """List the models known by name, recommend one, or check whether one can be loaded."""
    if check_ is not None:
        _check(check_)
        return
    if language:
        best = recommend(language, max_ms, memory=memory, licence=licence)
        console.out.print(console.plain(best.name))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))  # fits 80 columns
    for title in ("model_name", "dim", "px", "M", "MiB", "ms", "Flickr", "COCO"):
        first = title == "model_name"
        table.add_column(title, justify="left" if first else "right", no_wrap=not first, overflow="fold")
    for info in models():
        if all_ or info.recall or info.flickr30k or info.family == "t2i":
            table.add_row(*_cells(info))
    console.out.print(table)
    console.out.print(
        "M: millions of weights. Flickr and COCO: published text-to-image R@1 in percent.\n"
        "MiB and ms: memory and one pass on an AMD 7800X3D, as published by Immich.\n"
        f"Default: {DEFAULT_MODEL}. t2i_mini is bundled, others are downloaded once.\n"
        "t2i_mini knows photographs of a thousand kinds of things, and what emoji draw, in five languages.\n"
        "It knows no people, places, colours or numbers of things; for those, name a CLIP of this list.\n"
        "--all lists models without published scores, too. A repository of the hub (org/name), a name of\n"
        "open_clip, Immich or OpenAI, and a path to a model's folder or file are model_names as well.",
        soft_wrap=True,
    )


def _cells(info: ModelInfo) -> list[str]:
    spoken = info.languages
    languages = f"{len(spoken)} languages" if len(spoken) > MANY else " ".join(spoken)
    numbers = (info.parameters, info.memory)
    scores = (info.ms, info.flickr30k, info.coco)
    return [
        f"{console.plain(info.name)}\n  [dim]{languages}, {info.licence or 'licence: see its page'}[/]",
        str(info.dim),
        str(info.resolution),
        *("" if value is None else f"{value:.0f}" for value in numbers),
        *("" if value is None else f"{value:.2f}" for value in scores),
    ]


def _check(name: str) -> None:
    """Print where a model is and how large it is; exit with 1 where it cannot be had."""
    info = named(name)
    if info is None or registered(name):
        encoder = load_encoder(name)  # says so if there is no such model
        if not registered(name) and not isinstance(encoder, OnnxEncoder):
            from t2i_pipelines.encoders.formats import read_checkpoint

            read_checkpoint(Path(bare(name)).expanduser(), None)  # or if the path holds none
        said = "bundled or registered" if registered(name) else "a path"
        console.out.print(console.plain(f"{name} is here: {said}"), soft_wrap=True)
        return
    found = check(info)
    size = "" if found.size is None else f", {found.size / MEGABYTE:.0f} MB"
    if found.usable and not found.needs:
        said = f"{found.name} is here: {found.place}{size}"
    elif found.usable:
        said = f"{found.name} can be had from {found.place}{size}; needs {found.needs}"
    elif found.place:
        said = f"{found.name} is here: {found.place}{size}; needs {found.needs}"
    else:
        said = f"{found.name} cannot be had here{size and f' (about{size[1:]})'}: needs {found.needs}"
    console.out.print(console.plain(said), soft_wrap=True)
    if not found.usable:
        raise typer.Exit(1)


def export(
    model: Annotated[
        str, typer.Argument(help="A checkpoint's file or folder, or a model's name.")
    ] = DEFAULT_MODEL,
    folder: Annotated[Path | None, typer.Argument(help="New folder for the ONNX towers.")] = None,
    checkpoint_path: Annotated[
        Path | None, typer.Option(help="File or folder, where MODEL is a name.")
    ] = None,
    triton: Annotated[
        Path | None, typer.Option(help="New folder for a Triton model repository, in place of FOLDER.")
    ] = None,
    device: Annotated[str, typer.Option(help="With --triton: cpu or cuda.")] = "cpu",
) -> None:
    """Write a torch checkpoint as an ONNX folder, which runs without torch, or a model for Triton."""
    if (folder is None) == (triton is None):
        raise ConfigError("name either a folder, as in t2i export MODEL FOLDER, or --triton FOLDER")
    if triton is not None:
        _export_to_triton(model, checkpoint_path, triton, device)
    if folder is not None:
        encoder = to_export(model, checkpoint_path)
        from t2i_pipelines.encoders.export import export_model

        lowest = export_model(encoder, folder)
        console.err.print(f"wrote {console.plain(str(folder))}; lowest cosine to the checkpoint {lowest:.7f}")


def _export_to_triton(model: str, checkpoint_path: Path | None, folder: Path, device: str) -> None:
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"--device must be cpu or cuda, got {device!r}")
    from t2i_pipelines.encoders.triton import write_triton

    encoder = load_encoder(model, checkpoint_path, EXACT.device, EXACT.precision)
    with tempfile.TemporaryDirectory() as place:
        if not isinstance(encoder, OnnxEncoder):
            torch_encoder = to_export(model, checkpoint_path)
            from t2i_pipelines.encoders.export import export_model

            export_model(torch_encoder, Path(place) / "onnx")
            encoder = OnnxEncoder(f"{place}/onnx", model)
        write_triton(encoder, folder, cuda=device == "cuda")
    shown = console.plain(str(folder))
    console.err.print(f"wrote {shown}; run: tritonserver --model-repository {shown}", soft_wrap=True)


def to_export(model: str, checkpoint_path: Path | None) -> TorchEncoder:
    """Return the torch encoder of what the command names.

    :raises CheckpointError: If it is an ONNX folder already, or no checkpoint with both towers.
    """
    encoder = load_encoder(model, checkpoint_path, EXACT.device, EXACT.precision, "torch")
    if isinstance(encoder, HubEncoder):
        encoder = encoder.opened
    if isinstance(encoder, OnnxEncoder):
        raise CheckpointError(f"{model} is an ONNX folder already; there is nothing to export")
    if not hasattr(encoder, "tokenizer"):
        raise CheckpointError(f"{model} cannot be exported: it is not one checkpoint with both towers")
    from t2i_pipelines.encoders.torch_encoder import TorchEncoder

    assert isinstance(encoder, TorchEncoder)
    return encoder


def make_int8(
    source: Annotated[str, typer.Argument(help="Images like those that will be inserted.")],
    model_name: Annotated[str, typer.Option(help="A known model, or the path of an ONNX folder.")] = (
        DEFAULT_MODEL
    ),
    checkpoint_path: Annotated[Path | None, typer.Option(help="Folder with the model's files.")] = None,
    images: Annotated[int, typer.Option(help="Number of images to use, at least 16.")] = 256,
) -> None:
    """Calibrate a model's int8 form, which --precision int8 runs, and report what it costs."""
    cost = quantize(source, model_name=model_name, checkpoint_path=checkpoint_path, images=images)
    console.out.print(f"{console.plain(model_name)} in int8: {cost}", soft_wrap=True)
