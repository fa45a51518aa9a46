"""`python -m policyopt` is `policyopt`."""

from policyopt.cli import main

main()
