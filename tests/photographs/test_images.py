"""Pictures of every depth, mode and container that show the same, and those that show nothing."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from test_embed import embedded, load_each_network_once  # noqa: F401

import embed
from age_gender.photographs.images import Skipped, read_image
from benchmarks.drawn_faces import draw_chip, draw_photograph

cv2 = pytest.importorskip("cv2")
Image = pytest.importorskip("PIL.Image")
GREY = np.asarray(draw_chip(1).convert("L"))
RGB = np.asarray(draw_chip(1))


def png(
    numbers: np.ndarray, colour_type: int, *chunks: tuple[bytes, bytes], size: tuple | None = None
) -> bytes:
    """A PNG of 16 bits by its specification alone, with more chunks before the pixels.

    It claims to have `size`, width and height, or has that of its numbers.
    """

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    width, height = size or numbers.shape[1::-1]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in numbers)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def scaled(pixels: np.ndarray, most: int) -> np.ndarray:
    """Pixels of 0 to 255 as a camera whose largest number is `most` gives them."""
    return np.rint(pixels.astype(float) * most / 255).astype(np.uint16)


def read(tmp_path: Path, data: bytes) -> np.ndarray:
    (tmp_path / "picture.png").write_bytes(data)
    return read_image(str(tmp_path / "picture.png"))


def assert_shows(image: np.ndarray, pixels: np.ndarray, off: int = 1) -> None:
    expected = pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=-1)
    assert image.dtype == np.uint8 and image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() <= off


# ----------------------------------------------------------------------- 16 bits a colour


@pytest.mark.parametrize("most", [
    255,  # 8 bits saved as 16
    256, 4096,  # scaled by 2 ** bits
    510,  # twice an 8-bit picture
    1023, 4095, 16383, 65535,  # cameras of 10, 12, 14 and 16 bits
    255 * 16, 255 * 256,  # 8 bits moved up by 4 and by 8
])  # fmt: skip
@pytest.mark.parametrize("colour_type", [0, 2, 4, 6])  # grey, RGB, grey and alpha, RGB and alpha
def test_a_picture_of_16_bits_is_scaled_by_the_range_that_its_numbers_use(
    tmp_path, most, colour_type
):
    pixels = RGB if colour_type in (2, 6) else GREY
    pixels = np.rint((pixels - pixels.min()) * (255 / np.ptp(pixels))).astype(np.uint8)
    numbers = scaled(pixels, most)
    if colour_type >= 4:
        numbers = np.dstack([numbers, np.full(numbers.shape[:2], 65535, np.uint16)])

    assert_shows(read(tmp_path, png(numbers, colour_type)), pixels, 2)


@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey", "rgb"])
@pytest.mark.parametrize("brightness", [1, 0.2])
def test_8_bits_spread_over_16_are_read_as_they_were_however_dark(tmp_path, pixels, brightness):
    dark = (pixels * brightness).astype(np.uint8)

    for step in (256, 257):
        deep = png(dark.astype(np.uint16) * step, 2 if pixels.ndim == 3 else 0)
        assert_shows(read(tmp_path, deep), dark, 257 - step)


@pytest.mark.parametrize("hidden", [0, 65535])
def test_what_is_transparent_does_not_count_for_the_range(tmp_path, hidden):
    inside = np.hypot(*(np.indices(RGB.shape[:2]) - 100)) < 80
    numbers = np.where(inside[..., None], scaled(RGB, 4095), np.uint16(hidden))
    deep = png(np.dstack([numbers, inside * np.uint16(65535)]), 6)

    assert_shows(read(tmp_path, deep)[inside][None], RGB[inside][None])


def test_what_pillow_and_opencv_write_in_16_bits_is_read(tmp_path):
    Image.fromarray(scaled(GREY, 4095)).save(tmp_path / "pillow.png")
    cv2.imwrite(str(tmp_path / "grey.png"), scaled(GREY, 4095))
    cv2.imwrite(str(tmp_path / "rgb.png"), scaled(RGB, 4095)[:, :, ::-1])
    bgra = np.dstack([scaled(RGB, 4095)[:, :, ::-1], np.full(RGB.shape[:2], 65535, np.uint16)])
    cv2.imwrite(str(tmp_path / "rgba.png"), bgra)

    for name, pixels in (("pillow", GREY), ("grey", GREY), ("rgb", RGB), ("rgba", RGB)):
        assert_shows(read_image(str(tmp_path / f"{name}.png")), pixels)


def test_a_picture_of_16_bits_is_turned_as_its_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    deep = png(scaled(np.rot90(GREY), 4095), 0, (b"eXIf", exif.tobytes()[6:]))

    assert_shows(read(tmp_path, deep), GREY)


def test_a_transparent_colour_of_a_picture_of_16_bits_changes_no_pixel(tmp_path):
    deep = png(scaled(RGB, 4095), 2, (b"tRNS", bytes(6)))

    assert_shows(read(tmp_path, deep), RGB)


def test_a_face_has_the_same_embedding_whatever_the_container(tmp_path):
    """Chips and photographs, in grey and colour; cosines of 0.99 and more."""
    photograph = np.asarray(draw_photograph([(150, 60, 200)]))
    for folder, picture, aligned in (("chips", RGB, ["--aligned"]), ("photos", photograph, [])):
        (tmp_path / folder).mkdir()
        grey = np.asarray(Image.fromarray(picture).convert("L"))
        for colour, pixels in (("grey", grey), ("rgb", picture)):
            Image.fromarray(pixels).save(tmp_path / folder / f"{colour}-8.png")
            for most in (255, 510, 1023, 4080, 4095, 16383, 65535):
                deep = png(scaled(pixels, most), 2 if colour == "rgb" else 0)
                (tmp_path / folder / f"{colour}-{most}.png").write_bytes(deep)

        rows = embedded("--images", tmp_path / folder, *aligned, "--output", tmp_path / "o.npz")

        assert len(rows) == 16
        for name, row in rows.items():
            assert row @ rows[f"{name.split('-')[0]}-8.png"] > 0.99, (folder, name)


# --------------------------------------------------------------- other modes and containers


def saved(image: "Image.Image", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, **options)
    return stream.getvalue()


def test_the_orientation_of_exif_is_honoured(tmp_path):
    upright = draw_chip(2)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    data = saved(upright.rotate(90, expand=True), format="JPEG", quality=95, exif=exif)

    difference = read(tmp_path, data).astype(int) - np.asarray(upright)

    assert np.abs(difference).mean() < 3


@pytest.mark.parametrize("mode, off", [
    ("L", 0), ("LA", 0), ("RGB", 0), ("RGBA", 0), ("P", 40),
])  # fmt: skip
def test_every_mode_of_png_shows_the_same_picture(tmp_path, mode, off):
    pixels = GREY if mode.startswith("L") else RGB
    image = Image.fromarray(pixels)
    if mode in ("LA", "RGBA"):
        image.putalpha(255)
    elif mode == "P":
        image = image.quantize(256)

    assert_shows(read(tmp_path, saved(image, format="PNG")), pixels, off)


def test_a_palette_with_transparency_shows_its_colours_without_a_warning(tmp_path):
    palette = Image.fromarray(RGB).quantize(256)
    data = saved(palette, format="PNG", transparency=bytes(range(256)))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read(tmp_path, data)

    assert_shows(image, np.asarray(palette.convert("RGB")), 0)


def test_black_and_white_and_4_bits_of_grey_span_0_to_255(tmp_path):
    bits = GREY > 128
    assert_shows(read(tmp_path, saved(Image.fromarray(bits), format="PNG")), bits * np.uint8(255))
    cv2.imwrite(str(tmp_path / "bits.png"), bits * np.uint8(255), [cv2.IMWRITE_PNG_BILEVEL, 1])
    assert_shows(read_image(str(tmp_path / "bits.png")), bits * np.uint8(255))


@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 255, 255)])
def test_a_face_before_a_transparent_background_keeps_its_pixels(tmp_path, hidden):
    inside = np.hypot(*(np.indices(RGB.shape[:2]) - 100)) < 80
    cut_out = np.where(inside[..., None], RGB, np.uint8(hidden))
    data = np.dstack([cut_out, inside * np.uint8(255)])

    for options in ({"format": "PNG"}, {"format": "WEBP", "lossless": True, "exact": True}):
        picture = saved(Image.fromarray(data), **options)
        assert_shows(read(tmp_path, picture)[inside][None], RGB[inside][None], 0)


@pytest.mark.parametrize("options", [
    {"format": "WEBP", "lossless": True}, {"format": "BMP"},
    {"format": "JPEG", "quality": 95, "progressive": True},
])  # fmt: skip
def test_every_format_shows_the_same_picture(tmp_path, options):
    image = read(tmp_path, saved(Image.fromarray(RGB), **options))

    assert image.dtype == np.uint8 and np.abs(image.astype(int) - RGB).mean() < 4


def test_inverted_cmyk_of_adobe_shows_the_same_picture(tmp_path):
    data = saved(Image.fromarray(RGB).convert("CMYK"), format="JPEG", quality=100)
    assert b"Adobe" in data, "its numbers are inverted"

    assert np.abs(read(tmp_path, data).astype(int) - RGB).mean() < 4


def test_a_dark_picture_of_8_bits_stays_dark(tmp_path):
    dark = RGB // 8

    assert_shows(read(tmp_path, saved(Image.fromarray(dark), format="PNG")), dark, 0)


# --------------------------------------------------------------------------- no whole image


@pytest.mark.parametrize("data, reason", [
    (saved(draw_chip(), format="JPEG")[:3000], "truncated"),
    (saved(draw_chip(), format="PNG")[:1500], "truncated"),
    (b"", "not an image"),
    (b"GIF89a" + bytes(50), "not an image"),
    (b"\xff\xd8\xff\xe0" + bytes(500), "."),
    (b"<svg onload='x'/>", "not an image"),
    (png(np.zeros((0, 0)), 2, size=(60_000, 60_000)), "pixels are more than"),
])  # fmt: skip
def test_what_is_no_whole_image_is_skipped_with_a_reason(tmp_path, data, reason):
    with pytest.raises(Skipped, match=reason):
        read(tmp_path, data)


# ------------------------------------------------------------------------------ one colour


@pytest.mark.parametrize("way", ["--aligned", "--crop", "photographs", "--views"])
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (0, 0, 255), "noise", "16 bits"])
def test_what_has_one_colour_is_no_face_and_is_skipped_and_counted(tmp_path, capfd, way, colour):
    (tmp_path / "in").mkdir()
    face = draw_photograph([(150, 60, 200)])
    face.save(tmp_path / "in" / "face.png")
    pixels = np.full((*face.size[::-1], 3), colour if isinstance(colour, tuple) else 128)
    if colour == "noise":  # as a poor JPEG leaves it: a deviation of 1 of 255
        pixels = pixels + np.rint(np.random.default_rng(0).normal(0, 1, pixels.shape))
    blank = saved(Image.fromarray(pixels.astype(np.uint8)), format="PNG")
    if colour == "16 bits":
        blank = png(np.full(face.size[::-1], 40000, np.uint16), 0)
    (tmp_path / "in" / "blank.png").write_bytes(blank)
    options = {"--aligned": ["--aligned"], "--crop": ["--crop", "60:260,150:350"],
               "--views": ["--aligned", "--views"], "photographs": []}[way]  # fmt: skip

    embed.main(["--images", str(tmp_path / "in"), *options, "--output", str(tmp_path / "o.npz")])

    lines = capfd.readouterr().err.splitlines()
    with np.load(tmp_path / "o.npz") as table:
        assert table["filenames"].tolist() == ["face.png"]
    assert "blank.png: skipped: no face found: all of one colour" in lines
    assert lines[-1] == "1 of 2 files skipped: 1 without a face"


def test_a_pale_face_is_a_face(tmp_path):
    pale = np.rint(200 + (GREY.astype(float) - GREY.mean()) * (3 / GREY.std())).astype(np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(pale).save(tmp_path / "in" / "pale.png")

    assert list(embedded("--images", tmp_path / "in", "--aligned", "--output", tmp_path / "o.npz"))
