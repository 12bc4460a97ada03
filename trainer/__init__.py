"""Number Recognition: a handwritten-digit training job (MNIST, TensorFlow). Start at `trainer.task`."""

__version__ = "0.1.0"
