"""``t2i bench`` as a script: ``python benchmarks/encode.py --images 256 --repeat 3``."""

import sys

from t2i_pipelines.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "bench")
    main()
