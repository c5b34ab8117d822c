"""Labelled images or videos from a folder, the Hub or an embedded dataset, and the transforms that turn them into batches.

:func:`load_dataset` gives every source the same columns: ``image``, ``label`` (one class) or ``labels`` (a list of
classes), and where the source has them ``mask`` and ``bbox``. :class:`Prepared` (:class:`PreparedStream` for a stream)
yields items of tensors, image and mask and boxes transformed together, and :func:`collate` makes batches of them.

Conventions, in image files as people see them (upright, whatever their EXIF orientation says):

* a **mask** is an image of the same size: 0 background, 128 void (unknown, not counted), any other value object; what
  else masks hold, and ``mask_values`` and ``void``, see :mod:`attention_refine.data.masks`. In an item it is
  ``(1, H, W)`` uint8: 0 background, 1 object, 255 void; so it is in tensors for ``attention_refine.metrics``, which refuse
  masks of 0 and 255 alone.
* a **bbox** is ``[x, y, width, height]`` in pixels, or a list of them. In an item ``boxes`` is ``(n, 4)`` float32:
  left, top, right, bottom in pixels of the transformed image.
* a **map** that a person edited covers the whole image at any resolution, in [0, 1]: see
  :mod:`attention_refine.data.edits`. In an item it is ``edited_map`` (1, H, W), with the flag ``edited``.
* of **videos** the column is ``video`` in place of ``image``, and an item is a clip of one: ``pixel_values`` (3, T, H, W),
  ``mask`` (1, T, H, W): see :mod:`attention_refine.data.clip_reading` and :mod:`attention_refine.data.clip_sampling`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attention_refine.core.later import later

if TYPE_CHECKING:
    from attention_refine.data.adopting import as_prepared
    from attention_refine.data.annotating import annotate
    from attention_refine.data.checking import Check, check
    from attention_refine.data.class_matching import is_numbered, match_classes
    from attention_refine.data.clip_reading import Clip, read_clip
    from attention_refine.data.clip_sampling import ClipSampling
    from attention_refine.data.columns import (
        as_canonical,
        class_names,
        group_names,
        is_multi_label,
        split_few_labels,
        split_train_validation,
    )
    from attention_refine.data.digests import difference, fingerprint
    from attention_refine.data.edits import discard_edits, map_from_clicks, save_edits
    from attention_refine.data.few_annotations import keep_annotations
    from attention_refine.data.images import read_image, read_mask
    from attention_refine.data.items import Prepared, PreparedStream, collate, prepare
    from attention_refine.data.labels import DataError
    from attention_refine.data.map_files import read_map
    from attention_refine.data.sources import load_dataset
    from attention_refine.data.summary import Summary, describe
    from attention_refine.data.transforms import Transform
    from attention_refine.data.unlabeled import load_unlabeled

# Imported at first use: to look at a folder needs neither torch nor datasets.
_HOMES = {
    "Check": "checking",
    "Clip": "clip_reading",
    "ClipSampling": "clip_sampling",
    "DataError": "labels",
    "Prepared": "items",
    "PreparedStream": "items",
    "Summary": "summary",
    "Transform": "transforms",
    "annotate": "annotating",
    "as_canonical": "columns",
    "as_prepared": "adopting",
    "check": "checking",
    "class_names": "columns",
    "collate": "items",
    "describe": "summary",
    "difference": "digests",
    "discard_edits": "edits",
    "fingerprint": "digests",
    "group_names": "columns",
    "is_multi_label": "columns",
    "is_numbered": "class_matching",
    "keep_annotations": "few_annotations",
    "load_dataset": "sources",
    "load_unlabeled": "unlabeled",
    "map_from_clicks": "edits",
    "match_classes": "class_matching",
    "prepare": "items",
    "read_clip": "clip_reading",
    "read_image": "images",
    "read_map": "map_files",
    "read_mask": "images",
    "save_edits": "edits",
    "split_few_labels": "columns",
    "split_train_validation": "columns",
}
__getattr__ = later(__name__, _HOMES)

__all__ = [
    "Check",
    "Clip",
    "ClipSampling",
    "DataError",
    "Prepared",
    "PreparedStream",
    "Summary",
    "Transform",
    "annotate",
    "as_canonical",
    "as_prepared",
    "check",
    "class_names",
    "collate",
    "describe",
    "difference",
    "discard_edits",
    "fingerprint",
    "group_names",
    "is_multi_label",
    "is_numbered",
    "keep_annotations",
    "load_dataset",
    "load_unlabeled",
    "map_from_clicks",
    "match_classes",
    "prepare",
    "read_clip",
    "read_image",
    "read_map",
    "read_mask",
    "save_edits",
    "split_few_labels",
    "split_train_validation",
]


def __dir__() -> list[str]:
    return sorted(__all__)
