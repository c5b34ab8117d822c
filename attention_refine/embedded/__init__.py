"""Images and clips that the package draws itself, from a seed: its embedded datasets, and what a fresh head is calibrated on."""
