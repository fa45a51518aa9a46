"""Recipes that train diffusion and flow models with rewards."""
