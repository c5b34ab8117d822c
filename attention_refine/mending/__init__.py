"""Ways to mend a model that need no training run: masks for all images from a few, and a classifier fitted anew.

:mod:`attention_refine.repairing` chooses among recipes, trains and proves; these are used by themselves or by a recipe.
"""
