"""How good a policy is, and how sure that is: held-out metrics, statistics, comparison, conformance."""
