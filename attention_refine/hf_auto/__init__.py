"""A saved model in transformers' Auto classes and pipelines, after ``import attention_refine`` and without remote code.

transformers asks for classes by the config's ``model_type``. Those of this package answer for ``"attention_refine"``.
Each is registered once transformers' own Auto module is imported, so that ``import attention_refine`` stays light.
"""

from __future__ import annotations

from .on_import import when_imported


def _config() -> None:
    from . import config

    config.register()


def _model() -> None:
    from . import model

    model.register()


def _processor() -> None:
    from . import processor

    processor.register()


def _video_processor() -> None:
    from . import video_processor

    video_processor.register()


def install() -> None:
    """Have the classes registered, now or when transformers' Auto modules are imported."""
    when_imported("transformers.models.auto.configuration_auto", _config)
    when_imported("transformers.models.auto.modeling_auto", _model)
    when_imported("transformers.models.auto.image_processing_auto", _processor)
    when_imported("transformers.models.auto.video_processing_auto", _video_processor)
