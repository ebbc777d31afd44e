"""Read queries, and rate and show hits."""
