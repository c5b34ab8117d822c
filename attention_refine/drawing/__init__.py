"""Pictures made of images and maps: overlays, strips of frames, videos, and images put together from others."""
