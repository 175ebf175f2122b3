"""Every document that edgevit reads and writes: manifests, recipes, plans, profiles, targets."""
