"""How large the small network may be: a budget, and the masks that one ranking gives within it."""
