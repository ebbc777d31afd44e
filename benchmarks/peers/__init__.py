"""How fast images are embedded and inserted here, beside what others do, in one run on one machine.

::

    plan       which contenders, images and rounds
    inputs     images, a CLIP with random weights, and the vectors that transformers gives for them
    worker     one contender in a process of its own, measured
    runner     the workers in turn, round after round
    figures    medians, ratios, cosines
    targets    what the figures must reach, and by how much they do
"""
