"""Recipes for diffusion policies: agents whose actions are denoised."""
