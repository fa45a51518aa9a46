"""Preference oracles of a user."""


def longer(prompt: str, first: str, second: str) -> float:
    """The longer answer, nearly always."""
    return 0.95 if len(first) > len(second) else 0.05 if len(first) < len(second) else 0.5
