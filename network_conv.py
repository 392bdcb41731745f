"""Build the network (embedding in, two softmaxes out), its losses and export; not a program.

train.py applies the model of `build_preprocessing` to all embeddings once, and trains that of
`build_network` on its output. `build_scorer` joins both for the export. It adds the layers from
the softmaxes to an age, its interval and a probability, and those that check the row.
"""

import tempfile
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

from age_gender import rounding
from age_gender.embedding_space import NEGATION_LIMIT, EmbeddingSpace
from age_gender.embeddings import MIN_MAGNITUDE
from age_gender.labels import AGE_CLASSES, GENDERS
from age_gender.metrics import YEARS, compute_expected_age
from age_gender.processes.library_output import quiet_stderr
from age_gender.training.calibration import Array, Calibration, child_factor, tail_factor

UNITS = 384  # units of each dense layer
# Standard deviation in years of the Gaussian around a label, and the weight of the age error in the
# loss; chosen on held-out records.
SIGMA_AT_BIRTH, SIGMA_PER_YEAR, MAX_SIGMA = 0.7, 0.08, 3.0
AGE_ERROR_WEIGHT = 0.1


def build_preprocessing(space: EmbeddingSpace, whitening: float) -> keras.Model:
    """Return the preprocessing: embeddings (n, W) of any norm to principal components (n, k).

    It keeps the first `space.component_count` components, and divides each by its standard
    deviation to the power `whitening`: small ones carry age too, and large ones would dominate
    them. Where `is_denoised`, a Wiener filter shrinks each by the row's rounding noise.
    """
    # Scale to unit length, after division by the largest number, so that squares do not overflow
    embedding = keras.Input(space.mean.shape, name="features")
    largest = ops.max(ops.abs(embedding), axis=-1, keepdims=True)
    unit = layers.UnitNormalization()(embedding / ops.maximum(largest, MIN_MAGNITUDE))

    # Principal components with a mean square of 1
    deviations = np.maximum(space.deviations[: space.component_count], 1e-4 * space.deviations[0])
    squares = np.square(deviations ** (1 - whitening))
    kernel = (
        space.axes[:, : space.component_count] / deviations**whitening / np.sqrt(squares.mean())
    )
    components = fixed_dense(unit, kernel, -space.mean @ kernel, "principal_axes")

    # Wiener filter: each component times variance / (variance + noise), where the noise is the
    # row's variance along the empty directions
    if is_denoised(space):
        axes = space.empty_directions
        noise = ops.square(fixed_dense(unit, axes, -space.mean @ axes, "empty_directions"))
        noise = ops.mean(noise, axis=-1, keepdims=True)
        inverse_variances = 1 / np.square(deviations)[None]
        bias = np.zeros(len(deviations))
        components /= 1 + fixed_dense(noise, inverse_variances, bias, "noise_to_signal")
    return keras.Model(embedding, components, name="preprocessing")


def to_components(preprocessing: keras.Model, embeddings: np.ndarray) -> np.ndarray:
    """Return the components (..., k) of embeddings (..., W)."""
    rows = embeddings.reshape(-1, embeddings.shape[-1])
    components = preprocessing.predict(rows, batch_size=4096, verbose=0)
    return components.reshape(*embeddings.shape[:-1], components.shape[-1])


def is_denoised(space: EmbeddingSpace) -> bool:
    """Return whether the preprocessing shrinks components by the rounding noise of each row.

    The filter acts between the principal axes and the first dense layer, so that `apply_merged`
    cannot make one matrix product of both. For narrow embeddings (dlib, MobileFaceNet) two products
    cost hardly more than one; FaceNet's would take a fifth longer to score.
    """
    width, components = len(space.mean), space.component_count
    return components < width and components * (width + UNITS) < 1.2 * width * UNITS


def fixed_dense(
    inputs: keras.KerasTensor, kernel: np.ndarray, bias: np.ndarray, name: str
) -> keras.KerasTensor:
    """Return inputs (n, W) @ kernel (W, k) + bias (k,), by a layer that is not trained."""
    layer = layers.Dense(len(bias), trainable=False, name=name)
    outputs = layer(inputs)
    layer.set_weights([kernel, bias])
    return outputs


def build_network(width: int) -> keras.Model:
    """Return the network: components (n, width) to softmaxes "age" (n, 117), "gender" (n, 2).

    The dense layers do the work. On held-out training records the convolution neither gains nor
    loses anything, and one in place of a dense layer loses at least 0.1 years (docs/experiments.md,
    "Network and regularisation"). At export it costs nothing: `apply_merged` merges it into the
    second dense layer.
    """
    principal = keras.Input((width,), name="principal")
    hidden = dense_block(layers.Dropout(0.1)(principal), "first")

    # Convolve the units as a sequence of 24 steps with 16 channels, and add the result to them
    sequence = layers.Reshape((UNITS // 16, 16))(hidden)
    sequence = layers.Conv1D(16, 3, padding="same", kernel_initializer="zeros")(sequence)
    hidden = layers.Add()([hidden, layers.Flatten()(sequence)])

    hidden = dense_block(hidden, "second")
    age = layers.Dense(AGE_CLASSES, activation="softmax", name="age")(hidden)
    gender = layers.Dense(len(GENDERS), activation="softmax", name="gender")(hidden)
    return keras.Model(principal, {"age": age, "gender": gender}, name="network")


def dense_block(hidden: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Return the output of a dense layer with its normalisation, activation and dropout."""
    hidden = layers.Dense(UNITS, kernel_initializer="he_normal", name=name)(hidden)
    hidden = layers.LayerNormalization(name=f"{name}_normalisation")(hidden)
    hidden = layers.Activation("silu")(hidden)  # as fast as ReLU, and no worse
    return layers.Dropout(0.4, name=f"{name}_dropout")(hidden)


def compile_for_training(
    network: keras.Model, steps: int, epochs: int, final_epochs: int, learning_rate: float
) -> keras.Model:
    """Return the network with its losses and optimizer; `steps` is the number of steps per epoch.

    The learning rate falls along a cosine over the first epochs, and from half its initial value
    over the final ones (Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm
    Restarts", 2017).
    """
    # A model of its own: the network is saved without losses
    training_model = keras.Model(network.input, network.output)
    schedule = keras.optimizers.schedules.CosineDecayRestarts(
        learning_rate, steps * epochs, t_mul=final_epochs / epochs, m_mul=0.5
    )
    training_model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=1e-4),
        loss={"age": age_loss, "gender": "sparse_categorical_crossentropy"},
        weighted_metrics={"age": [age_error], "gender": ["accuracy"]},
        # Steps that run without a return to Python; the number must divide an epoch's steps
        steps_per_execution=max(n for n in range(1, 14) if steps % n == 0),
        jit_compile=False,  # XLA's compilation costs more than it saves here
    )
    training_model.optimizer.build(training_model.trainable_variables)
    return training_model


def join_preprocessing(preprocessing: keras.Model, network: keras.Model) -> keras.Model:
    """Return the model of both: features (n, W) to the network's softmaxes."""
    return keras.Model(preprocessing.input, network(preprocessing.output), name="age_gender")


def build_scorer(
    preprocessing: keras.Model, network: keras.Model, calibration: Calibration,
    space: EmbeddingSpace, curve: rounding.RoundingCurve,
) -> keras.Model:  # fmt: skip
    """Return the model to export: features (n, W) to these outputs, each (n,).

    `age` is the expected age in years; `age_low` and `age_high` a 90 % interval in whole years;
    `female_probability` is calibrated; `distance` is that of `EmbeddingSpace`, over 1 outside it;
    `rounding_years` estimates by how many years the rounding of the row's numbers changes its age
    (the curve of `rounding.measure`).
    """
    unit = preprocessing.get_layer("principal_axes").input
    axes = None if is_denoised(space) else preprocessing.get_layer("principal_axes")
    softmax = apply_merged(network, unit if axes else preprocessing.output, axes)

    # A quantile is the number of age classes whose cumulative probability is below its level
    age = compute_expected_age(softmax["age"], ops.matmul)
    cumulative = ops.matmul(
        softmax["age"], np.triu(np.ones((AGE_CLASSES, AGE_CLASSES), np.float32))
    )
    tail = ops.expand_dims(calibration.tail * tail_factor(age), -1)
    low = ops.sum(ops.cast(cumulative < tail, "float32"), axis=-1)
    high = ops.sum(ops.cast(cumulative < 1 - tail, "float32"), axis=-1)

    logit_scale = child_factor(age, calibration.child_certainty) / calibration.gender_temperature
    logits = ops.log(softmax["gender"] + 1e-9) * ops.expand_dims(logit_scale, -1)

    outputs = {
        "age": age,
        "age_low": ops.minimum(low, ops.round(age)),
        "age_high": ops.maximum(ops.minimum(high, AGE_CLASSES - 1.0), ops.round(age)),
        "female_probability": ops.softmax(logits)[:, 1],
    } | build_row_checks(unit, space, curve)
    return keras.Model(preprocessing.input, outputs, name="scorer")


def apply_merged(
    network: keras.Model, inputs: keras.KerasTensor, axes: layers.Dense | None = None
) -> dict[str, keras.KerasTensor]:
    """Return the network's softmaxes of inputs (n, k), or of axes(inputs), by fewer operations.

    Layers without activation, `axes` and the convolution, are merged into the dense layer after
    them. The units of these are centred, so that their normalisation needs no mean. Merging the
    axes saves a third of FaceNet's scoring time, the rest another tenth.
    """
    output = {layer.name: layer.output for layer in network.layers}
    before_first = keras.Model(network.input, output["first"])
    merged = {
        "first": lambda rows: before_first(axes(rows) if axes else rows),
        "second": keras.Model(output["first_dropout"], output["second"]),
    }
    hidden = inputs
    for name, layer in merged.items():
        identity = np.eye(hidden.shape[-1], dtype=np.float32)
        bias = np.asarray(layer(np.zeros_like(identity[:1])))[0]
        kernel = np.asarray(layer(identity)) - bias
        kernel, bias = kernel - kernel.mean(axis=1, keepdims=True), bias - bias.mean()
        hidden = fixed_dense(hidden, kernel, bias, name)

        normalisation = network.get_layer(f"{name}_normalisation")
        scale, offset = normalisation.get_weights()
        variance = ops.mean(ops.square(hidden), axis=-1, keepdims=True)
        hidden *= ops.rsqrt(variance + normalisation.epsilon) * scale[None]
        hidden = ops.silu(hidden + offset[None])
    return {name: network.get_layer(name)(hidden) for name in ("age", "gender")}


def build_row_checks(
    unit: keras.KerasTensor, space: EmbeddingSpace, curve: rounding.RoundingCurve
) -> dict[str, keras.KerasTensor]:
    """Return the outputs `distance` and `rounding_years` (n,) of unit-length rows (n, W).

    They are `EmbeddingSpace.distance` and the curve's years at `EmbeddingSpace.rounding_deviation`.
    """
    # One matrix product gives the centred rows along the tested directions, the empty ones and the
    # negation axis, on which the mean lies at -1
    tested, empty = space.tested_directions, space.empty_directions
    directions = np.hstack([tested, empty, space.negation[:, None]])
    along = ops.matmul(unit, directions) - space.mean @ directions
    count = tested.shape[1]
    centred, residual, negated = along[:, :count], along[:, count:-1], along[:, -1] - 1

    # The distance
    gaps = ops.square(centred) / space.variances - ops.square(centred + space.mean @ tested)
    log_odds = 0.5 * (len(space.mean) * ops.sum(gaps, axis=-1) + np.log(space.variances).sum())
    distance = ops.maximum(1 - log_odds / space.min_training_log_odds, negated / NEGATION_LIMIT)
    distance = ops.relu(distance) if space.detects_single_rows else ops.ones_like(distance)

    # The years
    starts, slope_changes = rounding.to_hinges(curve)
    squared_residual = ops.sum(ops.square(residual), axis=-1, keepdims=True)
    deviation = ops.sqrt(squared_residual / max(empty.shape[1], 1))
    years = ops.sum(ops.relu(deviation - starts) * slope_changes, axis=-1)
    return {"distance": distance, "rounding_years": years}


def to_litert(scorer: keras.Model) -> bytes:
    """Return the scorer as a LiteRT flatbuffer, for any batch size, with outputs by name.

    Keras's own export is used: other converters lose the weights without a warning.
    """
    with tempfile.TemporaryDirectory() as folder, quiet_stderr():
        path = Path(folder) / "scorer.tflite"
        scorer.export(path, format="litert", verbose=False)
        return path.read_bytes()


def age_loss(age: Array, probabilities: Array) -> Array:
    """Return the loss (n,): the cross-entropy with a Gaussian around the label, and the age error.

    `age` is (n,) or (n, 1), in years, `probabilities` (n, 117). Neighbouring years are nearly right
    (Gao et al., "Deep Label Distribution Learning with Label Ambiguity", 2017), except for
    children, whose Gaussian is narrow. The second term is the error that is reported (Gao et al.,
    "Age Estimation Using Expectation of Label Distribution Learning", 2018).
    """
    age = ops.reshape(ops.cast(age, "float32"), (-1, 1))
    sigma = ops.minimum(SIGMA_AT_BIRTH + SIGMA_PER_YEAR * age, MAX_SIGMA)
    soft_labels = ops.softmax(-0.5 * ops.square((YEARS - age) / sigma))
    cross_entropy = keras.losses.categorical_crossentropy(soft_labels, probabilities)
    return cross_entropy + AGE_ERROR_WEIGHT * age_error(age, probabilities)


def age_error(age: Array, probabilities: Array) -> Array:
    """Return the absolute error of the expected age in years, (n,), of probabilities (n, 117)."""
    age = ops.reshape(ops.cast(age, "float32"), (-1,))
    return ops.abs(compute_expected_age(probabilities, ops.matmul) - age)
