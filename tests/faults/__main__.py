"""`python -m tests.faults`: all faults, or those named; prints seeds, fills docs/reliability.md."""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
import time

from . import bench, disk, kills, rot, surroundings, table

FAULTS = {
    "kills": (kills.kills, 200),
    "full_disk": (disk.full, 1),
    "read_only": (disk.read_only, 1),
    "checkpoints": (rot.checkpoints, 1),
    "events": (rot.events, 1),
    "surroundings": (surroundings.surroundings, 1),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("faults", nargs="*", choices=[*FAULTS, []], help="default: all")
    parser.add_argument("--tries", type=int, help="of each fault that is random")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 100_000)
    parser.add_argument(
        "--write", action="store_true", help="fill the table in docs/reliability.md"
    )
    flags = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        shared = bench.make(pathlib.Path(place))
        print(
            f"seed {flags.seed}; undisturbed, a run takes {shared.life_s:.1f} s of CPU", flush=True
        )
        for name in flags.faults or FAULTS:
            function, tries = FAULTS[name]
            rows = function(shared, flags.tries or tries, flags.seed)
            for row in rows:
                print(
                    f"{row.fault}: {row.tries} tries: {row.outcome}",
                    *row.wrong,
                    sep="\n  ",
                    flush=True,
                )
            failed = failed or any(row.wrong for row in rows)
            if flags.write:
                more = f" --tries {flags.tries}" if flags.tries else ""
                table.write(rows, f"python -m tests.faults {name}{more} --seed {flags.seed}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
