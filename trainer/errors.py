"""The failures a user can mend, each with its exit code for a job controller.

A message is one line: what was wrong, where, and what to do. It is printed without a traceback.
"""

# From here on an exit code says that another start helps (Kubeflow's ExitCode restart policy).
RETRYABLE_FROM = 128


class TrainerError(Exception):
    """An expected failure; `exit_code` is the process's exit status."""

    exit_code = 1


class UsageError(TrainerError):
    """The command line or the configuration is wrong; trying again cannot help."""

    exit_code = 2


class DataError(TrainerError):
    """The data is missing, corrupt or not what was asked for; trying again cannot help."""

    exit_code = 3


class NetworkError(TrainerError):
    """The network is down where only it can give the data; once it is back, another start helps."""


class StorageError(TrainerError):
    """The run's directory cannot be written any more; once that is mended, another start helps."""


class ClusterError(TrainerError):
    """A worker was lost or the cluster did not form; the last checkpoint stands, so try again."""

    exit_code = 138


class Interrupted(TrainerError):
    """A signal asked the run to stop; the exit code is 128 plus its number (143 SIGTERM)."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number
