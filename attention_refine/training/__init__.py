"""Fine-tuning with Accelerate: the options, the loop, and what makes a killed run continue exactly."""

from .config import TrainingConfig, TrainingError
from .loop import TrainingResult, finetune
from .starting import make_accelerator

__all__ = ["TrainingConfig", "TrainingError", "TrainingResult", "finetune", "make_accelerator"]
