"""Recipes that train language models on tasks with verifiers, demonstrations or preferences."""
