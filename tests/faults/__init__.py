"""One thing done to a real run in a real process, many times over: kills, full disks, rot, lies.

Apart from the tests, which run a part, because all of it takes an hour: `python -m tests.faults`.
"""

import pathlib
import sys

_TESTS = str(pathlib.Path(__file__).parent.parent)
for place in (_TESTS, str(pathlib.Path(_TESTS).parent)):
    if place not in sys.path:
        sys.path.insert(0, place)
