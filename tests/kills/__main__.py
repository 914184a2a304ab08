"""Kill training processes and check that nothing but the last few steps is ever lost.

    python -m tests.kills --kills 100 [--seed 0] [--workdir DIR]

Each named point of a run is killed around the first save, a later one and the last one; the other
kills hit at random instants. About 5 seconds a kill on two idle CPU cores.
"""

import argparse
import pathlib
import random
import sys
import tempfile
import time

from tests.kills import harness


def main() -> int:
    """Run the campaign; return 1 if a promise was not kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="at least so many (default: 100)")
    parser.add_argument("--seed", type=int, help="of the random instants (default: another)")
    parser.add_argument("--workdir", help="where the runs are kept (default: they are not kept)")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)

    chains = [harness.FIRST_SAVE, harness.LATER_SAVES]
    with tempfile.TemporaryDirectory() as scratch:
        try:
            tally, digests = harness.campaign(
                pathlib.Path(options.workdir or scratch).absolute(),
                chains=chains,
                random_kills=max(1, options.kills - sum(map(len, chains))),
                seed=seed,
                say=say,
            )
        except harness.Failure as failure:
            print(f"FAILED (seed {seed}): {failure}")
            return 1
    print(
        f"\n{len(tally.hits)} kills, seed {seed}, {(time.monotonic() - began) / 60:.1f} minutes;"
        f" {tally.finished} runs finished, all in the state of the uninterrupted one:"
    )
    for part, digest in digests.items():
        print(f"  {part:<17}{digest}")
    print(tally.table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
