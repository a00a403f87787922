"""Channel scores by every method: one registry, one folder for what the methods are made of."""
