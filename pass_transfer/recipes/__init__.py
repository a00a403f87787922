"""Recipes: one file a verb, with the verb's name, over the pipeline."""
