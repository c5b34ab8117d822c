"""DARC: a map is refined by predicting what it hides. :mod:`.objective` is the method, :mod:`.refinement` its steps at test time."""

from .config import DARCConfig
from .objective import DARC, Rounds

__all__ = ["DARC", "DARCConfig", "Rounds"]
