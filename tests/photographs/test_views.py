"""embed.py --views and --embedder: other crops of a face, and any network in LiteRT's format."""

import functools

import numpy as np
import pytest
from small_networks import WIDTH, sandberg_graph, square_means
from test_embed import chips_in, embedded, interrupt, names_in, run

import embed
from age_gender.errors import InputError
from age_gender.photographs import faces, networks, views
from benchmarks.drawn_faces import draw_chip, draw_photograph

pytest.importorskip("cv2")
Image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def tflite(tmp_path_factory):
    """`square_means`, of which each is made once."""
    return functools.cache(functools.partial(square_means, tmp_path_factory.mktemp("tflite")))


def by_hand(chip: np.ndarray) -> np.ndarray:
    size = len(chip)
    squares = ((chip.astype(float) - 127.5) / 128).reshape(4, size // 4, 2, size // 2, 3)
    return squares.mean(axis=(1, 3)).reshape(-1)


# ---------------------------------------------------------------------------- --embedder


@pytest.mark.parametrize("batch", [None, 1, 2])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_network_gets_as_many_faces_as_it_was_frozen_for(tflite, batch, count):
    chips = np.random.default_rng(0).integers(0, 256, (count, 112, 112, 3), np.uint8)
    network = networks.read_litert(tflite(batch))

    embeddings = network.load()(chips)

    assert network.chip_size == 112 and embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, [by_hand(chip) for chip in chips], atol=1e-5)


def test_chips_of_utkface_are_brought_to_arcfaces_template(tflite, tmp_path):
    """White squares at UTKFace's mean landmarks lie at ArcFace's, as near as a similarity brings
    them: about 2 pixels of 112."""
    marks = np.zeros((200, 200, 3), np.uint8)
    for x, y in faces.UTKFACE_LANDMARKS.astype(int):
        marks[y - 4 : y + 5, x - 4 : x + 5] = 255

    chip = faces.align_utkface(marks, "arcface", 112)

    at = np.argwhere(chip.min(axis=2) > 60)[:, ::-1]
    template = [[38.3, 51.7], [73.5, 51.5], [56, 71.7], [41.5, 92.4], [70.7, 92.2]]
    for point in template:
        assert np.linalg.norm(at - point, axis=1).min() < 2.5
    draw_chip(1).save(tmp_path / "a.png")
    embeddings = embedded("--images", tmp_path, "--aligned", "--embedder", tflite(2),
                     "--output", tmp_path / "o.csv")  # fmt: skip
    expected = by_hand(faces.align_utkface(np.asarray(draw_chip(1)), "arcface", 112))
    np.testing.assert_allclose(embeddings["a.png"], expected, atol=1e-5)


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
def test_photographs_and_templates_and_outputs_of_any_width(tflite, tmp_path, suffix):
    (tmp_path / "in").mkdir()
    draw_photograph([(150, 60, 200)]).save(tmp_path / "in" / "a.png")
    Image.new("RGB", (300, 200), "grey").save(tmp_path / "in" / "wall.png")
    same = ("--images", tmp_path / "in", "--embedder", tflite(None), "--chips", tmp_path / "chips",
            "--output", tmp_path / f"o{suffix}")  # fmt: skip

    arcface = embedded(*same)
    chip = np.asarray(Image.open(tmp_path / "chips" / "a.png.png"))
    utkface = embedded(*same, "--template", "utkface")

    assert list(arcface) == ["a.png"] and chip.shape == (112, 112, 3)
    np.testing.assert_allclose(arcface["a.png"], by_hand(chip), atol=1e-5)
    assert np.abs(arcface["a.png"] - utkface["a.png"]).max() > 0.05


def test_dask_and_resuming_serve_any_network(tflite, tmp_path, monkeypatch):
    images = chips_in(tmp_path / "in", 6)
    same = ["--images", images, "--aligned", "--embedder", tflite(2)]
    here = embedded(*same, "--output", tmp_path / "here.npz")
    result = run(*same, "--output", tmp_path / "o.npz", "--dask", "local")
    assert result.returncode == 0, result.stderr
    assert len(result.stderr.splitlines()) == 3, result.stderr
    with np.load(tmp_path / "o.npz") as there:
        np.testing.assert_allclose(there["embeddings"], [*here.values()], atol=1e-5)

    command = [*map(str, same), "--output", str(tmp_path / "p.npz")]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(embed, "read_embeddings", interrupt)
        embed.main(command)
    with pytest.raises(InputError, match="started with different --margin, --template"):
        embed.main([*command, "--template", "utkface"])
    command[command.index("--embedder") + 1] = str(tflite(1))
    with pytest.raises(InputError, match="started with different --embedder"):
        embed.main(command)


def test_what_is_no_embedder_is_refused_with_a_remedy(tflite, tmp_path):
    draw_chip().save(tmp_path / "a.png")
    (tmp_path / "rubbish.tflite").write_bytes(b"TFL3 rubbish" * 50)
    same = ["--images", str(tmp_path / "a.png"), "--aligned", "--output", str(tmp_path / "o.npz")]
    for path, reason in (
        (tmp_path / "rubbish.tflite", "not an embedder in LiteRT's format.*another --embedder"),
        (tflite(1, width=3), "not an embedder.*its output is"),
        (tflite(1, size=64), "takes chips of 64 pixels; choose .* --template"),
    ):
        with pytest.raises(InputError, match=reason):
            embed.main([*same, "--embedder", str(path)])
    with pytest.raises(FileNotFoundError):
        embed.main([*same, "--embedder", str(tmp_path / "none.tflite")])
    assert len(embedded(*same, "--embedder", tflite(1, size=64), "--template", "arcface")) == 1


def test_a_network_whose_numbers_are_not_finite_is_refused(tmp_path):
    import tensorflow as tf

    chips = tf.keras.Input((112, 112, 3))
    means = tf.keras.layers.Flatten()(tf.keras.layers.AveragePooling2D(28)(chips))
    model = tf.keras.Model(
        chips, tf.keras.ops.log(means - 10)
    )  # the logarithm of negative numbers is NaN
    network = tmp_path / "logarithm.tflite"
    network.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    images = chips_in(tmp_path / "in", 3)

    with pytest.raises(InputError, match=r"logarithm\.tflite: returned NaN or infinity"):
        embed.main(["--images", str(images), "--aligned", "--embedder", str(network),
                    "--output", str(tmp_path / "o.npz")])  # fmt: skip

    assert not (tmp_path / "o.npz").exists()


def test_it_needs_no_tensorflow(tflite, tmp_path):
    images, poison = chips_in(tmp_path / "in", 2), tmp_path / "poison" / "tensorflow"
    poison.mkdir(parents=True)
    (poison / "__init__.py").write_text("raise SystemExit('imported!')")

    result = run("--images", images, "--aligned", "--embedder", tflite(2), "--output",
                 tmp_path / "o.npz", environment={"PYTHONPATH": str(poison.parent)})  # fmt: skip

    assert result.returncode == 0, result.stderr


# ------------------------------------------------------------------------------- --views


@pytest.mark.parametrize("network, crops", [("facenet", 11), ("embedder", 6)])
def test_views_have_a_row_a_face_and_begin_with_the_plain_crop(tflite, tmp_path, network, crops):
    images = chips_in(tmp_path / "in", 3)
    (images / "01.png").write_bytes(b"broken")
    graph = tmp_path / "small.pb"
    graph.write_bytes(sandberg_graph(512))
    same = ["--images", images, "--aligned",
            f"--{network}", graph if network == "facenet" else tflite(2)]  # fmt: skip

    embed.main([*map(str, same), "--views", "--output", str(tmp_path / "v.npz")])

    plain = embedded(*same, "--output", tmp_path / "o.npz")
    with np.load(tmp_path / "v.npz", allow_pickle=False) as table:
        assert table["filenames"].tolist() == ["00.png", "02.png"] == list(plain)
        assert table["crops"].tolist()[:2] == ["chip", "mirror"]
        width = 512 if network == "facenet" else WIDTH
        assert table["embeddings"].shape == (2, crops, width)
        assert table["embeddings"].dtype == np.float16
        np.testing.assert_allclose(table["embeddings"][:, 0], [*plain.values()], atol=2e-3)


def test_views_that_are_resumed_end_the_same(tflite, tmp_path, monkeypatch):
    images = chips_in(tmp_path / "in", 8)
    same = ["--images", str(images), "--aligned", "--views", "--embedder", str(tflite(2)),
            "--template", "utkface", "--output"]  # fmt: skip
    embed.main([*same, str(tmp_path / "whole.npz")])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(embed, "read_embeddings", interrupt)
        embed.main([*same, str(tmp_path / "o.npz")])
    results = sorted((tmp_path / "o.npz.partial").glob("[0-9]*.npz"))
    assert len(results) > 1
    results[0].unlink()

    embed.main([*same, str(tmp_path / "o.npz")])

    with np.load(tmp_path / "o.npz") as resumed, np.load(tmp_path / "whole.npz") as whole:
        for key in ("filenames", "crops", "embeddings"):
            np.testing.assert_array_equal(resumed[key], whole[key])


def test_each_crop_is_what_its_name_says():
    image = np.asarray(draw_chip(3))

    class Finds:
        def __call__(self, padded):  # 320 x 320 pixels: the chip and a border of 60
            assert padded.shape == (320, 320, 3)
            np.testing.assert_array_equal(padded[60:260, 60:260], image)
            return np.array([[100.0, 80, 100, 120]]), None

    crops = dict(
        zip(
            views.CROPS["utkface"],
            views.make_views(image, "a", "utkface", 160, Finds()),
            strict=True,
        )
    )
    box = faces.resize(image[20:140, 40:140], 160, 160)
    np.testing.assert_array_equal(crops["chip"], faces.resize(image, 160, 160))
    np.testing.assert_array_equal(crops["mirror"], crops["chip"][:, ::-1])
    np.testing.assert_array_equal(crops["box"], box)
    wider = faces.resize(image[20 - 15 : 140 + 15, 40 - 13 + 1 : 140 + 13], 160, 160)
    assert np.abs(crops["box_margin"].astype(int) - wider).mean() < 4
    for name in [name for name in crops if name.endswith("_whitened")]:
        pixels = (crops[name] - 127.5) / 128
        assert abs(pixels.mean()) < 1e-4 and abs(pixels.std() - 1) < 1e-3, name
    assert all(crop.shape == (160, 160, 3) for crop in crops.values())


def test_without_a_face_that_is_found_the_usual_box_is_taken():
    from age_gender.photographs.detector import Detector

    box = views.detect_box(np.zeros((320, 320, 3), np.uint8), Detector())

    assert box.tolist() == [78, 62, 164, 196]  # SOURCES: 164 x 196 from (18, 2) of the chip


def test_random_crops_follow_from_the_name_alone():
    image = np.asarray(draw_chip(3))

    def drawn(name: str) -> np.ndarray:
        return np.stack([*views.make_views(image, name, "arcface", 112, None)])

    np.testing.assert_array_equal(drawn("a"), drawn("a"))
    assert np.abs(drawn("a")[2:].astype(int) - drawn("b")[2:]).mean() > 1


@pytest.mark.parametrize("arguments", [
    ["--output", "o.npz"], ["--output", "o.csv", "--aligned"],
    ["--output", "o.npz", "--aligned", "--chips", "c"],
])  # fmt: skip
def test_views_need_chips_and_an_npz(tmp_path, monkeypatch, capfd, arguments):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SystemExit) as error:
        embed.main(["--images", ".", "--views", *arguments])

    assert error.value.code == 2
    line = capfd.readouterr().err
    assert "--views needs --aligned" in line and line.count("\n") == 1
    assert names_in(tmp_path) == []


def test_two_networks_exclude_each_other(capfd):
    with pytest.raises(SystemExit):
        embed.main(["--images", ".", "--output", "o.npz", "--facenet", "a", "--embedder", "b"])
    assert "not allowed with" in capfd.readouterr().err
