"""Ready configs for `attention-refine finetune`, `evaluate` and `push`; shipped in the wheel."""
