"""Reports for a person to read: one HTML file with everything in it."""

from .gallery import galleries
from .page import write_report
from .strips import strips

__all__ = ["galleries", "strips", "write_report"]
