"""Number Recognition: a job that trains on handwritten digits. Start at `trainer.task`."""

import time

__version__ = "0.1.0"

# When the process began, as nearly as Python can tell: a user waits for the imports as well.
STARTED = time.perf_counter()
