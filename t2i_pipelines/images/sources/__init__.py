"""One module for each kind of source. :mod:`t2i_pipelines.images.source` tells which it is."""
