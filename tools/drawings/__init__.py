"""Draw scenes and charts, describe them in five languages, and train a small CLIP on them.

Its image tower is the part of t2i_mini that knows drawings.
"""
