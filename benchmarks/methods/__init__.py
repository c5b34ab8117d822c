"""Every method by one protocol, on the same images and with as many updates; see ``__main__.py`` and docs/benchmark.md."""
