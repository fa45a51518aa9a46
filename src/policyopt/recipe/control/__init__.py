"""Recipes that train agents in Gymnasium environments."""
