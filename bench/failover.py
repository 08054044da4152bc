"""What the death of a cluster's master costs: ``python -m bench.failover``, on a cluster of its own.

Eight processes write, and the master of a shard is killed. Its replica takes over. Printed is the window: how long
before the kill a write was told that is lost. In every other one the replica is behind, as over a net that is cut.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from tests.support.failover import failover
from tests.support.servers import Cluster


@click.command()
@click.option("--behind", default=0.4, show_default=True, help="Seconds that the replica is behind.")
def main(behind: float) -> None:
    """Print the window with each durability."""
    for durability in ("process", "always"):
        for late in (0.0, behind):
            with tempfile.TemporaryDirectory(prefix="rack-bench-") as folder:
                cluster = Cluster(Path(folder))
                try:
                    found = failover(cluster, "failover", durability, late)
                finally:
                    cluster.kill()
            print(f"{durability:8} replica {1000 * late:3.0f} ms behind: {found}", flush=True)


if __name__ == "__main__":
    main()
