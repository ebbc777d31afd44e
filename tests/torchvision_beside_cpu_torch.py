"""Import this before ``open_clip``, ``timm`` or ``transformers``: it makes PyPI's torchvision importable."""

from benchmarks.peers.torchvision_beside_cpu_torch import bring_in

bring_in()
