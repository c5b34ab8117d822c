"""Fine-tuning with Accelerate: the options, the loop, and what makes a killed run continue exactly."""

from .config import TrainingConfig, TrainingError
from .loop import TrainingResult, finetune
from .rate_finder import RateCurve, find_learning_rate
from .starting import make_accelerator

__all__ = [
    "RateCurve",
    "TrainingConfig",
    "TrainingError",
    "TrainingResult",
    "find_learning_rate",
    "finetune",
    "make_accelerator",
]
