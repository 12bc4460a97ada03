"""Number Recognition: a job that trains on handwritten digits. Start at `trainer.task`."""

import os
import signal
import sys
import time

__version__ = "0.1.0"

if sys.argv[0] == "-m":  # of `python -m trainer.task`: no traceback out of half an import
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
# When the process began, as nearly as Python can tell: a user waits for the imports as well.
STARTED = time.perf_counter()
