"""The command line. Everything it does is a call of the Python API."""

import os

# Before torch is imported. Threads that wait for work sleep instead of spinning: small models lose a little on an idle
# machine, but a busy one (other jobs, other runs) does not slow them down many times over. Set it to ACTIVE to spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from policyopt.cli.app import main

__all__ = ["main"]
