"""How steps are generated. Every engine equals `plain`, which asks the policy for one step at a time."""
