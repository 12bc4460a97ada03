"""The networks `mlp` and `cnn` in JAX as an expert would train them.

Usage: jax_loop.py [MODEL [BATCH_SIZE [EPOCHS]]], with jax and optax installed.

An epoch of `mlp` is one compiled scan. A step of `cnn` is a call of its own, because on a CPU XLA
runs convolutions inside a loop on one thread.
"""

import time

import jax
import jax.numpy as jnp
import lines
import optax

model, batch_size, epochs = lines.arguments("mlp", 128, 5)
train_images, train_labels, test_images, test_labels = map(jnp.asarray, lines.mnist())
steps = len(train_images) // batch_size

# Kernels [in, out], or [height, width, in, out] with their padding; a pool after each convolution.
KERNELS = {
    "mlp": [((784, 128), None), ((128, 10), None)],
    "cnn": [
        ((5, 5, 1, 16), "SAME"),
        ((3, 3, 16, 48), "VALID"),
        ((3, 3, 48, 96), "SAME"),
        ((3 * 3 * 96, 128), None),
        ((128, 10), None),
    ],
}[model]


def max_pool(values):
    """2x2 max pooling of [n, height, width, channels], even sizes.

    Not by `reduce_window`, the gradient of which XLA computes with a scatter, slowly on a CPU.
    """
    n, height, width, channels = values.shape
    return values.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))


def logits(weights, images):
    """Returns float32 [n, 10] for uint8 [n, 28, 28]."""
    values = images[..., None].astype(jnp.float32) / 255
    for number, ((_, padding), (kernel, bias)) in enumerate(zip(KERNELS, weights, strict=True), 1):
        if padding:
            sizes = ("NHWC", "HWIO", "NHWC")
            values = jax.lax.conv_general_dilated(
                values, kernel, (1, 1), padding, dimension_numbers=sizes
            )
            values = max_pool(jax.nn.relu(values + bias))
        else:
            values = values.reshape(len(values), -1) @ kernel + bias
            values = values if number == len(KERNELS) else jax.nn.relu(values)
    return values


def loss(weights, chosen):
    """Returns the mean cross-entropy over some training examples."""
    answers = logits(weights, train_images[chosen])
    return optax.softmax_cross_entropy_with_integer_labels(answers, train_labels[chosen]).mean()


def step(state, chosen):
    """One step of Adam."""
    weights, slots = state
    change, slots = optimizer.update(jax.grad(loss)(weights, chosen), slots)
    return (optax.apply_updates(weights, change), slots), None


@jax.jit
def shuffled(key):
    """The batches of an epoch, in a new order."""
    order = jax.random.permutation(key, len(train_images))[: steps * batch_size]
    return order.reshape(steps, batch_size)


@jax.jit
def scanned(state, key):
    """An epoch in one call."""
    return jax.lax.scan(step, state, shuffled(key))[0]


one_step = jax.jit(step, donate_argnums=0)


def stepped(state, key):
    """An epoch, a call for each step."""
    for chosen in shuffled(key):
        state, _ = one_step(state, chosen)
    return state


one_epoch = {"mlp": scanned, "cnn": stepped}[model]
keys = jax.random.split(jax.random.key(1), epochs + len(KERNELS))
glorot = jax.nn.initializers.glorot_uniform()
initial = [
    (glorot(key, shape), jnp.zeros(shape[-1]))
    for key, (shape, _) in zip(keys[epochs:], KERNELS, strict=True)
]
optimizer = optax.adam(optax.cosine_decay_schedule(4e-3, epochs * steps))
state, seconds = (initial, optimizer.init(initial)), 0.0
for number, key in enumerate(keys[:epochs], 1):
    started = time.perf_counter()
    state = jax.block_until_ready(one_epoch(state, key))
    seconds += time.perf_counter() - started
    right = jnp.concatenate(
        [logits(state[0], part).argmax(1) for part in jnp.split(test_images, 10)]
    )
    lines.epoch(number, seconds, (right == test_labels).mean())
lines.end()
