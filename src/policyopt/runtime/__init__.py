"""What surrounds the loop: checkpoints, the run folder, progress, interrupts. No maths, no recipes, no models."""
