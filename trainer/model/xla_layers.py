"""Layers and operations in a form that XLA compiles to fast CPU code; their weights are Keras's."""

import tensorflow as tf
from keras import layers


@tf.custom_gradient
def relu(inputs):
    """ReLU whose gradient is a product: XLA compiles a select to masked stores, slow on AMD."""
    outputs = tf.nn.relu(inputs)
    return outputs, lambda upstream: upstream * tf.sign(outputs)


@tf.custom_gradient
def narrow_matmul(inputs, kernel):
    """The product [n, k] x [k, units] for few units, its kernel's gradient computed transposed.

    On a CPU a product with few rows takes five times as long as one with few columns.
    """

    def gradients(upstream):
        input_gradient = tf.matmul(upstream, kernel, transpose_b=True)
        # The two negations keep XLA from merging the transposition into the product.
        return input_gradient, -tf.transpose(-tf.matmul(upstream, inputs, transpose_a=True))

    return inputs @ kernel, gradients


class Logits(layers.Dense):
    """A dense layer of few units."""

    def call(self, inputs):
        """Returns [n, units] for [n, features]."""
        return narrow_matmul(inputs, tf.identity(self.kernel)) + self.bias


class MaxPool(layers.MaxPooling2D):
    """2x2 max pooling without the usual gradient, a scatter, which is slow on a CPU."""

    def call(self, inputs):
        """Returns [n, height / 2, width / 2, channels], for even sizes."""
        _, height, width, channels = inputs.shape
        blocks = tf.reshape(inputs, (-1, height // 2, 2, width // 2, 2, channels))
        return tf.reduce_max(blocks, (2, 4))


class ConvMaxPool(layers.Conv2D):
    """A "same" convolution of a one-channel image, ReLU and 2x2 max pooling, as one matrix product.

    Made with the pool's strides=2 and an odd kernel size. im2col: the four positions of a pool see
    (size + 1)² pixels, so each such patch is multiplied by four copies of the kernel, one padded
    for each position. A CPU is slow in convolutions of one channel.
    """

    def call(self, inputs):
        """Returns [n, height / 2, width / 2, filters] for [n, height, width, 1], even sizes."""
        _, height, width, _ = inputs.shape
        size, margin = self.kernel_size[0], self.kernel_size[0] // 2
        rows, columns, reach = height // 2, width // 2, margin + 1
        # Patches are built of 2x2 blocks of pixels, because a pool moves by two.
        padded = tf.pad(inputs, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
        blocks = tf.nn.space_to_depth(padded, 2)
        patches = [
            blocks[:, down : down + rows, right : right + columns]
            for down in range(reach)
            for right in range(reach)
        ]
        patches = tf.reshape(tf.concat(patches, 3), (-1, (size + 1) ** 2))
        kernel = tf.cast(self.kernel, inputs.dtype)[:, :, 0]
        kernels = [
            tf.pad(kernel, ((down, 1 - down), (right, 1 - right), (0, 0)))
            for down in (0, 1)
            for right in (0, 1)
        ]
        kernels = tf.nn.space_to_depth(tf.concat(kernels, 2)[None], 2)
        products = patches @ tf.reshape(kernels, (-1, 4 * self.filters))
        products = tf.reshape(products, (-1, rows, columns, 4, self.filters))
        return tf.nn.relu(tf.reduce_max(products, 3) + tf.cast(self.bias, inputs.dtype))


def sum_of_squares(tensor: tf.Tensor) -> tf.Tensor:
    """Returns the sum of squares, float32 (), of a tensor of any shape.

    Adds parts of each axis as vectors first: XLA's own reduction takes a fifth of a step of `mlp`.
    """
    squares = tf.square(tensor)
    for axis in range(len(tensor.shape) - 1):
        while (parts := max(n for n in range(1, 9) if squares.shape[axis] % n == 0)) > 1:
            squares = sum(tf.split(squares, parts, axis))
    return tf.reduce_sum(squares)
