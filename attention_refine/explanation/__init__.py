"""One photograph, or one video, explained: what the model says it is, and its map drawn over it."""

from .image import Explanation, explain_image, is_explanation

__all__ = ["Explanation", "explain_image", "is_explanation"]
