"""Find what a model leans on, mend it with the recipe that measured best, prove it: two audits and one page."""

from .repair import Repair, repair

__all__ = ["Repair", "repair"]
