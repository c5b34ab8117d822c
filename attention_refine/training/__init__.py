"""Fine-tuning with Accelerate: the options, the loop, and what makes a killed run continue exactly."""

from .config import TrainingConfig, TrainingError
from .loop import TrainingResult, finetune

__all__ = ["TrainingConfig", "TrainingError", "TrainingResult", "finetune"]
