"""Recipes: search, prompt tuning, adaptation, fine-tuning, evaluation; each short, over the rooms below."""
