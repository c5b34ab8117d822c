"""Reports for a person to read: one HTML file with everything in it."""

from .gallery import galleries
from .page import write_report

__all__ = ["galleries", "write_report"]
