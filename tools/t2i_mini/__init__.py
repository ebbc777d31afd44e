"""Train t2i_mini, the bundled model: not part of the package, which ships the result.

``python -m tools.t2i_mini.train`` does all of it; ``python -m tools.t2i_mini.measure`` prints its figures.
"""
