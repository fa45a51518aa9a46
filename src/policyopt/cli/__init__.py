"""The command line. Everything it does is a call of the Python API."""

from policyopt.cli.app import main

__all__ = ["main"]
