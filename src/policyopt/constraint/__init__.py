"""What holds a model back: terms of the same kind as objectives. Their weight is the coefficient."""
