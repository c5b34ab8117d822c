"""The commands: one file each, with what it is told (``add``) and what it does (``run``)."""
