"""Reach Towhee 1.1.3: the only door to its internals, and repairs of its engine."""
