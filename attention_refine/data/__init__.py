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
  ``mask`` (1, T, H, W): see :mod:`attention_refine.data.clips` and :mod:`attention_refine.data.clip_sampling`.
"""

from __future__ import annotations

from attention_refine.data.adopting import as_prepared
from attention_refine.data.checking import Check, check
from attention_refine.data.clip_sampling import ClipSampling
from attention_refine.data.clips import Clip, read_clip
from attention_refine.data.columns import (
    DataError,
    as_canonical,
    class_names,
    group_names,
    is_multi_label,
    split_few_labels,
    split_train_validation,
)
from attention_refine.data.edits import discard_edits, map_from_clicks, read_map, save_edits
from attention_refine.data.fingerprint import difference, fingerprint
from attention_refine.data.images import read_image, read_mask
from attention_refine.data.items import Prepared, PreparedStream, collate, prepare
from attention_refine.data.matching import is_numbered, match_classes
from attention_refine.data.sources import load_dataset
from attention_refine.data.summary import Summary, describe
from attention_refine.data.transforms import Transform
from attention_refine.data.unlabeled import load_unlabeled

__all__ = [
    "Check",
    "Clip",
    "ClipSampling",
    "DataError",
    "Prepared",
    "PreparedStream",
    "Summary",
    "Transform",
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
