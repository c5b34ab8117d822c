"""Reports for a person to read: one HTML file with everything in it."""

from .gallery import galleries
from .matches import matches
from .page import write_report
from .strips import strips

__all__ = ["galleries", "matches", "strips", "write_report"]
