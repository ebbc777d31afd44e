"""t2i_mini, the bundled small CLIP: what it learns, how it is trained, and how good it is.

The exported model lies in ``model/`` beside this file and needs nothing from here at run time.
"""
