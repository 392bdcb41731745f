"""Networks that embed in no time: one of the shape of FaceNet's graphs, one in LiteRT's format."""

from pathlib import Path

import numpy as np

WIDTH = 24  # numbers of an embedding by `square_means`


def square_means(folder: Path, batch: int | None, size: int = 112, width: int = WIDTH) -> Path:
    """Write a LiteRT network: the means of a chip's 4 by 2 squares, of each colour."""
    import tensorflow as tf

    pool = tf.keras.layers.AveragePooling2D((size // 4, size // 2))
    layers = [tf.keras.Input((size, size, 3), batch), pool, tf.keras.layers.Flatten()]
    if width != WIDTH:
        layers.append(tf.keras.layers.Dense(width))
    path = folder / f"{batch}-{size}-{width}.tflite"
    model = tf.keras.Sequential(layers)
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return path


def sandberg_graph(width: int) -> bytes:
    """A graph of the shape that David Sandberg's frozen files have, but small.

    Images come from a queue through `input`; batch normalisation asks `phase_train`, as
    TensorFlow 1 wrote it, which way to go; `embeddings` are normalised.
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    random = np.random.default_rng(0)
    with tf.Graph().as_default() as graph:
        v1.disable_control_flow_v2()
        queue = tf.queue.FIFOQueue(10, [tf.float32], [(160, 160, 3)], name="batch_join/queue")
        images = tf.identity(queue.dequeue_up_to(5), name="image_batch")
        images = tf.identity(images, name="input")
        training = v1.placeholder(tf.bool, name="phase_train")
        filters = tf.constant(random.normal(size=(3, 3, 3, 8)), tf.float32)
        hidden = tf.nn.conv2d(images, filters, 40, "SAME")
        normalised = v1.cond(
            training,
            lambda: v1.nn.fused_batch_norm(hidden, tf.ones(8), tf.zeros(8), is_training=True)[0],
            lambda: v1.nn.fused_batch_norm(
                hidden, tf.ones(8), tf.zeros(8), tf.ones(8), 4 * tf.ones(8), is_training=False
            )[0],
        )
        flat = tf.reshape(tf.nn.relu(normalised), (-1, 128))
        weights = tf.constant(random.normal(size=(128, width)), tf.float32)
        tf.nn.l2_normalize(flat @ weights, 1, name="embeddings_")
        tf.identity(graph.get_tensor_by_name("embeddings_:0"), name="embeddings")
        v1.enable_control_flow_v2()
    return graph.as_graph_def().SerializeToString()


def sandberg_embedding(chip: np.ndarray) -> np.ndarray:
    """The same by hand, with NumPy."""
    random = np.random.default_rng(0)
    filters = random.normal(size=(3, 3, 3, 8))
    weights = random.normal(size=(128, 512))
    x = (chip - 127.5) / 128
    # "SAME" for steps of 40 and filters of 3 pads nothing: patches at 0, 40, 80, 120
    hidden = [[np.tensordot(x[i : i + 3, j : j + 3], filters, 3) for j in range(0, 160, 40)]
              for i in range(0, 160, 40)]  # fmt: skip
    hidden = np.maximum((np.array(hidden) - 1) / np.sqrt(4 + 0.001), 0)
    embedding = hidden.reshape(128) @ weights
    return embedding / np.linalg.norm(embedding)
