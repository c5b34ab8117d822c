"""Fine-tuning with Accelerate: one visible loop for a CPU, a GPU or several processes, resumable at any step.

What a run does is decided by (config, datasets, model, processes); on a CPU two such runs end with the same bits, also
when one of them was killed and resumed. Only this package imports accelerate.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import Dataset

from attention_refine.data import as_prepared
from attention_refine.data.adopting import NoDataset
from attention_refine.training.batch_norms import shared_statistics
from attention_refine.training.batches import Collate
from attention_refine.training.config import TrainingConfig, TrainingError
from attention_refine.training.parameter_groups import frozen
from attention_refine.training.run import Evaluate, OnEpoch, Run, TrainingResult
from attention_refine.training.starting import make_accelerator

__all__ = ["TrainingConfig", "TrainingError", "TrainingResult", "finetune"]


def finetune(
    model: nn.Module,
    dataset: Dataset,
    config: TrainingConfig | None = None,
    *,
    eval_dataset: Dataset | None = None,
    unlabeled: Dataset | None = None,
    accelerator: Accelerator | None = None,
    collate: Collate | None = None,
    evaluate: Evaluate | None = None,
    on_epoch: OnEpoch | None = None,
) -> TrainingResult:
    """Train ``model`` on ``dataset``.

    ``output_dir`` receives ``checkpoints/step-*`` (resumable), ``best/`` (the model with the best ``config.monitor``),
    ``last/`` and ``history.json``, each of them whole or absent. With an evaluation the model in memory ends with the
    best weights, without one with the last. Weights in half precision become float32, in place, and stay so
    (``config.keep_dtype`` puts them back in the end, and saves them as they came). Batch statistics are per process; the
    global random generators are seeded. On several machines ``output_dir`` must be a folder that all of them see.

    Args:
        model: takes ``model(pixel_values=, labels=, ...)`` and returns an object with ``.loss``, ``.losses`` (scalars
            by name) and ``.logits`` (B, classes); saves itself with ``save_pretrained(folder)``. What its ``forward``
            does not accept of a batch is left out. All but ``model.backbone``, and its classifier, has the head's rate.
        dataset: items, or whatever :func:`attention_refine.data.as_prepared` makes into such: a folder, a ``datasets``
            dataset, ``ImageFolder``, a list of (image, label). ``set_epoch(epoch)`` is called if it has one. The order of
            the images and the random numbers of an item depend on (seed, epoch, row) only. A stream
            (``IterableDataset``) comes in its own order, must seed its own augmentation, and needs ``max_steps``.
        config: the options; defaults where None.
        eval_dataset: images to evaluate on: ``loss`` (of the task, without objectives), ``accuracy``, ``macro_f1``, for
            multi-hot labels ``mean_average_precision``, and ``mask_correlation`` where there are head maps and masks.
            Without labels, where asked for: ``loss/<objective>``, ``prediction_drift``, ``prediction_kl``.
        unlabeled: images, their labels ignored, taken as :mod:`attention_refine.training.strategies` says; with a length.
        accelerator: one to use in place of one made from ``config`` (its precision and trackers then count).
        collate: makes a batch of a list of items; :func:`attention_refine.data.collate` where None.
        evaluate: ``evaluate(model, accelerator) -> {metric: value}`` in place of the evaluation above. Called on every
            process with the model in evaluation mode; the main process's values count.
        on_epoch: called with the history's entry of each epoch; what it raises ends the run, resumable.

    Raises:
        Interrupted: SIGTERM or SIGUSR1 ended the run after a step, with a checkpoint; a ``SystemExit`` of status 75.
        TrainingError: the run cannot start, be resumed or go on (a loss that is not finite, a label outside the
            classes, a damaged checkpoint, an output_dir that is in use); earlier checkpoints stay as they were.
        ValueError: a dataset too small for the batch size, or a warm-up longer than the run.
    """
    config = config or TrainingConfig()
    sets = prepared_sets(model, config, dataset, eval_dataset, unlabeled)
    run = Run(model, config, accelerator or make_accelerator(config), sets, collate, evaluate, on_epoch)
    set_seed(config.seed, device_specific=True)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    with frozen(model, config), shared_statistics(model, config, run.accelerator), run.request.listening():
        run.begin()
        with run.going():
            run.look_at_start()
            while not run.progress.finished:
                run.train_epoch()
                run.close_epoch()
    return run.end()


def prepared_sets(
    model: nn.Module, config: TrainingConfig, dataset: Dataset, eval_dataset: Dataset | None, unlabeled: Dataset | None
) -> dict[str, Dataset | None]:
    """The datasets of a run by name, as items for the model.

    Raises:
        TrainingError: something that is no dataset.
    """
    try:
        return {
            "training": as_prepared(model, dataset, train=True, seed=config.seed),
            "unlabeled": None
            if unlabeled is None
            else as_prepared(model, unlabeled, train=True, labeled=False, seed=config.seed),
            "validation": None if eval_dataset is None else as_prepared(model, eval_dataset),
        }
    except NoDataset as error:
        raise TrainingError(str(error)) from None
