"""`policyopt compare`: several methods on one recipe, with the same seeds, tasks, beginnings and budget."""
