"""From pairs and a model to a folder: what :func:`t2i_pipelines.finetune.finetune` does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from t2i_pipelines.config.training import FinetuneOptions
from t2i_pipelines.encoders.backends import choose_torch
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.evaluate import Pairs
from t2i_pipelines.finetune.clip import Clip, sides_of
from t2i_pipelines.finetune.material import Material, Order, Scoring, Texts, Truth, digest_of
from t2i_pipelines.finetune.output import blended, choose_alpha, export, make_room, write_model, write_report
from t2i_pipelines.finetune.result import FinetuneResult, Progress
from t2i_pipelines.finetune.start import Start, open_start
from t2i_pipelines.finetune.store import Store
from t2i_pipelines.finetune.trainer import Trainer, safe_rate
from t2i_pipelines.types import Compute

log = logging.getLogger("t2i_pipelines.finetune")

NOT_THE_RUN = ("resume", "overwrite", "export", "save_steps", "device", "alpha")
"""Options that may differ when a run is taken up."""

SPLIT = 4


class Materials(NamedTuple):
    """All pairs of a run."""

    domain: Material
    validation: Material
    outside: Material | None
    replay: Material | None

    @property
    def given(self) -> list[Material]:
        """Those that there are."""
        return [one for one in self if one is not None]


def run(
    pairs: Any,
    validation: Any,
    outside: Any,
    replay: Any,
    *,
    model_name: str,
    checkpoint_path: str | Path | None,
    folder: Path,
    tell: Callable[[Progress], None],
    options: FinetuneOptions,
) -> FinetuneResult:
    """Fine-tune; see :func:`t2i_pipelines.finetune.finetune`."""
    running = choose_torch(Compute(options.device, options.precision, "torch"))
    given = [None if one is None else Pairs.of(one) for one in (pairs, validation, outside, replay)]
    for path in (model_name, checkpoint_path):
        if path is not None and Path(path).expanduser().resolve() == folder.resolve():
            raise ConfigError(f"output_dir={str(folder)!r} is the model to start from; name a new folder")
    start = open_start(model_name, checkpoint_path)
    make_room(folder, resume=options.resume, overwrite=options.overwrite)
    store, texts = Store(start.preprocess), Texts(start.tokenizer)
    try:
        materials = _materials(given, store, texts, options)
        with _deterministic():
            result = _tune(start, materials, store, texts.ids, running, folder, tell, options)
    finally:
        store.close()
    unread = [outcome for one in given if one is not None for outcome in one.failed]
    result = replace(result, failed=(*unread, *store.failed))
    write_report(folder, {"model_name": start.name, **result.as_dict(), "options": asdict(options)})
    return result


def _materials(given: list[Pairs | None], store: Store, texts: Texts, options: FinetuneOptions) -> Materials:
    domain, validation, outside, replay = (
        None if one is None else Material.of(one, store, texts) for one in given
    )
    assert domain is not None
    if validation is None:
        random = np.random.default_rng([options.seed, SPLIT])
        domain, validation = domain.split(options.validation_share, random)
    elif both := len(np.intersect1d(domain.images, validation.images)):
        log.warning("%d images of %s are learned from, too: it tells too much", both, validation.name)
    return Materials(domain, validation, outside, replay)


def _tune(
    start: Start,
    materials: Materials,
    store: Store,
    ids: np.ndarray,
    running: Compute,
    folder: Path,
    tell: Callable[[Progress], None],
    options: FinetuneOptions,
) -> FinetuneResult:
    domain, validation, outside, replay = materials
    order = Order(domain, replay, options.batch_size, options.replay_share, options.seed)
    clip = Clip(start, options.train, running)
    log.info("%s: %s learns, by %s", start.name, options.train, running)
    see, read = sides_of(clip, store, ids, options.augment)
    inside = Scoring(validation, clip, see, read)
    beyond = None if outside is None else Scoring(outside, clip, see, read)
    at = options.recall_at
    before = inside.metrics(at), {} if beyond is None else beyond.metrics(at)
    first = clip.weights()
    learned = np.concatenate([domain.rows, *([] if replay is None else [replay.rows])])
    trainer = Trainer(
        clip=clip,
        order=order,
        truth=Truth(learned),
        see=see,
        read=read,
        validation=inside,
        options=options,
        rate=options.learning_rate or safe_rate(clip.size, options.train),
        folder=folder,
        run=_identity(start, materials, store, ids, running, options),
        tell=tell,
    )
    best = trainer.train()
    alpha = options.alpha
    if alpha is None:
        alpha = 1.0
        if beyond is not None and best.step:
            alpha = choose_alpha(clip, first, best.weights, inside, beyond, at, before=before[1])
    clip.set(blended(first, best.weights, alpha))
    after = inside.metrics(at), {} if beyond is None else beyond.metrics(at)
    write_model(start, clip.module.state_dict(), folder)
    return FinetuneResult(
        path=folder,
        onnx=export(folder, start.name) if options.export else None,
        before=before[0],
        after=after[0],
        outside_before=before[1],
        outside_after=after[1],
        recall_at=at,
        alpha=alpha,
        best_step=best.step,
        steps=trainer.step,
        stopped_early=trainer.step < trainer.steps,
        images=len(domain.images),
        captions=len(domain.captions),
        history=tuple(trainer.history),
        seconds=trainer.seconds,
    )


def _identity(
    start: Start,
    materials: Materials,
    store: Store,
    ids: np.ndarray,
    running: Compute,
    options: FinetuneOptions,
) -> dict[str, Any]:
    """Return what makes a run this run; its weights follow from it, on one machine."""
    told = {name: value for name, value in asdict(options).items() if name not in NOT_THE_RUN}
    return {
        "model": f"{start.name} {start.digest}",
        **told,
        "precision": running.precision,
        "pairs": digest_of(materials.given, store, ids),
    }


@contextmanager
def _deterministic() -> Iterator[None]:
    """Let torch take the deterministic one of several ways, where it has one."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
