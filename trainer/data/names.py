"""The names that `--dataset` takes, apart from the code behind them so that flags are checked
without importing numpy.
"""

DATASETS = ("auto", "mnist", "synthetic", "fashion_mnist")
