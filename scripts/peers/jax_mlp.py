"""The network of `mlp` in JAX as an expert would train it: an epoch is one compiled scan.

Usage: jax_mlp.py [BATCH_SIZE [EPOCHS]], with jax and optax installed.
"""

import sys
import time

import jax
import jax.numpy as jnp
import lines
import optax

batch_size, epochs = (*map(int, sys.argv[1:]), *(128, 5)[len(sys.argv) - 1 :])
train_images, train_labels, test_images, test_labels = map(jnp.asarray, lines.mnist())
steps = len(train_images) // batch_size


def logits(weights, images):
    """Returns float32 [n, 10] for uint8 [n, 28, 28]."""
    pixels = images.reshape(-1, 784).astype(jnp.float32) / 255
    hidden = jax.nn.relu(pixels @ weights["w1"] + weights["b1"])
    return hidden @ weights["w2"] + weights["b2"]


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
def one_epoch(state, key):
    """All batches of an epoch, in a new order."""
    order = jax.random.permutation(key, len(train_images))[: steps * batch_size]
    return jax.lax.scan(step, state, order.reshape(steps, batch_size))[0]


keys = jax.random.split(jax.random.key(1), epochs + 2)
glorot = jax.nn.initializers.glorot_uniform()
initial = {
    "w1": glorot(keys[0], (784, 128)),
    "b1": jnp.zeros(128),
    "w2": glorot(keys[1], (128, 10)),
    "b2": jnp.zeros(10),
}
optimizer = optax.adam(optax.cosine_decay_schedule(4e-3, epochs * steps))
state, seconds = (initial, optimizer.init(initial)), 0.0
for number, key in enumerate(keys[2:], 1):
    started = time.perf_counter()
    state = jax.block_until_ready(one_epoch(state, key))
    seconds += time.perf_counter() - started
    right = logits(state[0], test_images).argmax(1) == test_labels
    lines.epoch(number, seconds, right.mean())
lines.end()
