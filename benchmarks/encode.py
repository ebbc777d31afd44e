"""``t2i bench`` as a script: ``python benchmarks/encode.py --images 256 --repeat 3``."""

import typer

from t2i_pipelines.cli_bench import bench

if __name__ == "__main__":
    typer.run(bench)
