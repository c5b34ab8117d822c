"""What a model leans on: the object, a cue or the place; read from its maps, its groups and from images put together."""

from .audit import audit
from .record import Audit
from .scenes import SCENES

__all__ = ["SCENES", "Audit", "audit"]
