"""Towhee pipelines for text-to-image search: type words, get the matching pictures."""
