"""Pages to draw maps on: an editor of a dataset's maps, and a live page for images that are dropped on it.

The server is starlette under uvicorn, and the pages are plain JavaScript on a canvas: a map is drawn with pointer or
keys, undone, sent as the bytes it is made of, and nothing is fetched from elsewhere. They come with the extra
``attention-refine[app]``; importing this package imports neither.
"""

from attention_refine.app.running import edit, serve
from attention_refine.app.space import write_space

__all__ = ["edit", "serve", "write_space"]
