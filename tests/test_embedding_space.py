"""Embeddings of another network are refused, and rounded ones are warned of."""

import csv

import numpy as np
import pytest
from conftest import refused, script

import prepare
import run
from age_gender import embedding_space, paths, rounding, table_writing, trained_models
from age_gender.embeddings import median_norm, to_unit_length
from age_gender.errors import InputError
from age_gender.scoring.scorer import Scorer
from age_gender.training import records

RANDOM = np.random.default_rng(7)
ROTATION = np.linalg.qr(RANDOM.normal(size=(512, 512)))[0].astype(np.float32)
OTHERS = {
    "permuted": lambda x: x[:, RANDOM.permutation(x.shape[1])],
    "reversed": lambda x: x[:, ::-1],
    "negated": lambda x: -x,
    "some signs flipped": lambda x: x * RANDOM.choice([-1, 1], x.shape[1]).astype(np.float32),
    "rotated": lambda x: x @ np.linalg.qr(RANDOM.normal(size=(x.shape[1],) * 2))[0],
    "random": lambda x: RANDOM.normal(size=x.shape).astype(np.float32),
}
SHIPPED = {
    "facenet": "utkface.npz",
    "dlib": "utkface_dlib.npz",
    "mobilefacenet": "utkface_mobilefacenet.npz",
}


def write(path, names, features):
    table_writing.write(path, names, [np.ascontiguousarray(features)])
    return str(path)


def every(step: int, file: str) -> np.ndarray:
    """Return every so manieth embedding of a shipped table, float32."""
    with np.load(paths.DATA / file) as arrays:
        return arrays["embeddings"][::step].astype(np.float32)


# ---------------------------------------------------------------------------- shipped models


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("other", [*OTHERS, *SHIPPED])
def test_a_shipped_model_detects_every_row_of_another_network(name, other):
    scorer = Scorer((paths.MODELS / name / trained_models.LITERT_MODEL).read_bytes(), name)
    own = every(40, SHIPPED[name])
    if other == name:
        assert scorer.score_by_name(own)["distance"].max() < 0.3
        return
    if other in OTHERS:
        rows = OTHERS[other](own)
    else:  # of another width: cut off, or filled up with zeros as pgvector columns are
        rows = np.zeros_like(own)
        theirs = every(40, SHIPPED[other])
        width = min(rows.shape[1], theirs.shape[1])
        rows[:, :width] = theirs[:, :width]
    assert np.mean(scorer.score_by_name(np.float32(rows))["distance"] > 1) > 0.998


@pytest.mark.parametrize("name", SHIPPED)
def test_no_crop_and_no_average_of_a_persons_faces_is_taken_for_another_networks(name):
    scorer = Scorer((paths.MODELS / name / trained_models.LITERT_MODEL).read_bytes(), name)
    with np.load(paths.DATA / SHIPPED[name].replace(".npz", "_views.npz")) as arrays:
        views = arrays["embeddings"][::10].astype(np.float32)
    for rows in (*views.transpose(1, 0, 2), views.mean(axis=1), views[:, 1:3].mean(axis=1)):
        assert scorer.score_by_name(np.ascontiguousarray(rows))["distance"].max() < 0.5


@pytest.mark.parametrize("name", SHIPPED)
def test_rounding_is_reported_in_years_and_float16_costs_nothing(name):
    scorer = Scorer((paths.MODELS / name / trained_models.LITERT_MODEL).read_bytes(), name)
    own = to_unit_length(every(40, SHIPPED[name]))
    exact = scorer.score_by_name(own)
    assert np.median(exact["rounding_years"]) < 0.1
    half = scorer.score_by_name(own.astype(np.float16).astype(np.float32))
    assert np.median(half["rounding_years"]) < 0.1
    length = median_norm(every(40, SHIPPED[name]))  # as the network has it
    for scale in (1, length):
        for decimals in (3, 2):  # the years are those by which it moves ages, within a third
            rounded = scorer.score_by_name(np.round(own * scale, decimals))
            moved = np.abs(rounded["age"] - exact["age"]).mean()
            assert np.median(rounded["rounding_years"]) == pytest.approx(moved, rel=0.35, abs=0.1)


def in_int8(rows: np.ndarray) -> np.ndarray:
    """Return rows (n, W) in whole numbers up to 127, by the scale of each row."""
    return np.round(rows / np.abs(rows).max(axis=1, keepdims=True) * 127)


@pytest.mark.parametrize("name", SHIPPED)
def test_int8_with_each_vectors_own_scale_costs_little_and_a_warning_says_what(name):
    scorer = Scorer((paths.MODELS / name / trained_models.LITERT_MODEL).read_bytes(), name)
    with np.load(paths.DATA / SHIPPED[name]) as arrays:
        names, rows = arrays["filenames"][::20], arrays["embeddings"][::20].astype(np.float32)
    age = np.array([int(file.split("_")[0]) for file in names])
    exact, stored = scorer.score_by_name(rows), scorer.score_by_name(in_int8(rows))
    warning = rounding.check("t", stored["rounding_years"])
    if name == "mobilefacenet":  # rounding exceeds its smaller components
        assert "about 1.5 years" in warning
    else:
        assert warning is None
    cost = np.abs(stored["age"] - age).mean() - np.abs(exact["age"] - age).mean()
    assert cost < (0.4 if warning else 0.1)


def test_a_network_learns_from_rounded_embeddings_of_unit_length(faces):
    rows = to_unit_length(faces[1])
    rounded = rounding.round_at_random(rows)
    assert np.linalg.norm(rounded, axis=1) == pytest.approx(1, abs=1e-5)
    likeness = (rows * rounded).sum(axis=1)
    assert 0.99 < likeness.min() < 0.9999 < np.median(likeness)


# --------------------------------------------------------------------------------- run.py


@pytest.mark.parametrize("other", ["permuted", "negated", "random"])
@pytest.mark.parametrize("rows", [1, 300])
def test_embeddings_of_another_network_are_refused(faces, model_folder, tmp_path, other, rows):
    path = write(tmp_path / "t.npz", faces[0][:rows], OTHERS[other](faces[1][:rows]))
    output = tmp_path / "out.csv"
    arguments = ["--features", path, "--model", str(model_folder), "--output", str(output)]
    with pytest.raises(InputError, match="row 1: an embedding of another network"):
        run.main(arguments)
    assert not output.exists()
    run.main([*arguments, "--force"])
    assert len(output.read_text().splitlines()) == rows + 1


def test_the_refusal_is_one_line_that_says_what_to_do(faces, model_folder, tmp_path):
    path = write(tmp_path / "t.csv", faces[0][:5], -faces[1][:5])
    done = script("run.py", "--features", path, "--model", model_folder)
    refused(done, "row 1", faces[0][0], "prepare.py", "train.py", "--skip-bad-rows", "--force")
    assert done.out == ""


@pytest.mark.parametrize("suffix", ["csv", "npz"])
def test_a_row_of_another_network_is_a_bad_row_like_any_other(
    faces, model_folder, tmp_path, suffix
):
    features = faces[1][:100].copy()
    features[[40, 70]] = features[[40, 70]][:, ::-1]
    path = write(tmp_path / f"t.{suffix}", faces[0][:100], features)
    output = tmp_path / "out.csv"
    arguments = ["--features", path, "--model", model_folder, "--output", output]
    refused(script("run.py", *arguments), "row 41", faces[0][40])

    done = script("run.py", *arguments, "--skip-bad-rows")
    assert done.code == 0 and "skipped 2 bad rows, scored 98" in done.err
    scored = [row["filename"] for row in csv.DictReader(output.read_text().splitlines())]
    assert scored == [name for i, name in enumerate(faces[0][:100]) if i not in (40, 70)]
    listed = [*csv.DictReader((tmp_path / "out.errors.csv").read_text().splitlines())]
    assert [row["row"] for row in listed] == ["41", "71"]
    assert all("an embedding of another network" in row["reason"] for row in listed)

    assert script("run.py", *arguments, "--force").code == 0
    assert output.read_text().count("\n") == 101


def test_a_rounded_table_is_warned_of_once_and_a_coarser_one_refused(faces, tmp_path):
    names, features = faces
    tables = [write(tmp_path / f"{i}.npz", names, np.round(features, 3)) for i in (1, 2)]
    arguments = ["--output", tmp_path / "out.csv", "--model", paths.FACENET, "--features"]
    assert "rounded" not in script("run.py", *arguments, *tables).err  # half a year: in silence

    coarser = np.round(features * 250) / 250  # steps of 0.004
    tables = [write(tmp_path / f"{i}.npz", names, coarser) for i in (1, 2)]
    done = script("run.py", *arguments, *tables)
    assert done.code == 0 and done.err.count("look rounded or quantised") == 1
    assert "warning" in done.err and "1.npz" in done.err

    coarse = write(tmp_path / "coarse.npz", names, np.round(features, 2))
    refused(script("run.py", *arguments, coarse), "coarse.npz", "rounded", "--force")
    assert script("run.py", *arguments, coarse, "--force").code == 0


# ------------------------------------------------------------------------------- the space


@pytest.fixture(scope="module")
def space(record_folder):
    parts = [records.read(record_folder / f"{name}.tfrecords") for name in ("train", "children")]
    return embedding_space.fit(to_unit_length(np.concatenate([part.features for part in parts])))


def test_no_held_out_face_is_taken_for_another_networks(space, record_folder):
    held_out = to_unit_length(records.read(record_folder / "test.tfrecords").features)
    assert space.distance(held_out).max() < 0.5
    assert space.distance(-held_out).min() > 1
    assert space.detects_single_rows


def test_the_exported_outputs_are_those_that_were_measured(faces, space, model_folder):
    mixed = np.concatenate([faces[1][:50], -faces[1][:50], faces[1][:50, ::-1]])
    model = Scorer((model_folder / trained_models.LITERT_MODEL).read_bytes(), "model")
    expected = space.distance(to_unit_length(mixed))
    np.testing.assert_allclose(
        model.score_by_name(mixed)["distance"], expected, rtol=1e-2, atol=1e-3
    )


def test_distance_by_hand():
    # Two dimensions: 300 rows at an angle of 0 with a deviation of 0.1 across. A random direction
    # has a variance of 1/2 along both axes, which counts as 1.
    angle = np.random.default_rng(0).normal(scale=0.1, size=300)
    rows = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    space = embedding_space.fit(rows, folds=0)
    mean, variance = rows.mean(axis=0), 2 * np.cov(rows.T, ddof=0) + 0.02 * np.eye(2)
    inverse, constant = np.linalg.inv(variance), np.log(np.linalg.det(variance))
    for row in rows[:5]:
        centred = row - mean
        ratio = 0.5 * (2 * centred @ inverse @ centred + constant - 2 * row @ row)
        assert space.log_odds_of_random(row[None])[0] == pytest.approx(ratio, rel=0.02)
    assert space.distance(np.float32([[-1, 0], [0, 1]])).min() > 1


@pytest.mark.parametrize("faces_used", [150, 300])
def test_of_too_few_faces_a_model_refuses_no_row(faces, faces_used):
    space = embedding_space.fit(to_unit_length(faces[1][:faces_used]))
    assert space.detects_single_rows == (faces_used == 300)
    own = space.distance(to_unit_length(faces[1][300:]))
    assert own.max() <= 1


def test_where_embeddings_fill_their_space_single_rows_are_not_judged(faces):
    rows = to_unit_length(faces[1])
    space = embedding_space.fit(rows)
    components = (rows - space.mean) @ space.axes[:, :40]
    even = to_unit_length(components / components.std(axis=0))
    assert not embedding_space.fit(even).detects_single_rows
    assert embedding_space.fit(even).distance(-even).max() <= 1


def test_components_that_rounding_drowns_are_left_out():
    # Dlib's embeddings hold something along 80 of 128 axes; of length 1.4.
    features = every(10, "utkface_dlib.npz")
    space = embedding_space.fit(to_unit_length(features), 1.4, folds=0)
    assert 80 <= space.component_count <= 82
    kept = np.round(to_unit_length(features), 3)
    space = embedding_space.fit(to_unit_length(kept), 1.4, folds=0)
    assert space.component_count <= 128


def test_components_that_rounding_at_unit_length_drowns_are_denoised():
    import keras

    import network_conv

    own = to_unit_length(every(4, "utkface_mobilefacenet.npz"))
    space = embedding_space.fit(own, 75, folds=0)  # the length that the network gives them
    denoised = network_conv.build_preprocessing(space, 1)
    plain = keras.Model(denoised.input, denoised.get_layer("principal_axes").output)

    exact = plain.predict(own, verbose=0)
    assert np.abs(denoised.predict(own, verbose=0) - exact).mean() < 0.05
    rounded = np.round(own, 3)  # the smallest components are only noise then
    assert (plain.predict(rounded, verbose=0)[:, -20:]).std() > 5
    assert (denoised.predict(rounded, verbose=0)[:, -20:]).std() < 0.2
    error = np.abs(denoised.predict(rounded, verbose=0) - exact)
    assert error[:, :40].mean() < 0.1


# ----------------------------------------------------------------------------- prepare.py


@pytest.mark.parametrize("fraction", [0.4, 0.1])
@pytest.mark.parametrize("other", ["permuted", "random"])
def test_prepare_refuses_embeddings_of_two_networks(faces, tmp_path, other, fraction):
    names, features = faces[0], faces[1].copy()
    places = np.sort(RANDOM.permutation(len(names))[: int(fraction * len(names))])
    features[places] = OTHERS[other](features[places])
    path = write(tmp_path / "t.npz", names, features)
    with pytest.raises(InputError, match="is an embedding of another network than") as caught:
        prepare.main(["--features", path, "--output", str(tmp_path), "--test-size", "100"])
    assert names[places[0]] in str(caught.value)


def test_prepare_says_what_embeddings_it_read(faces, tmp_path, capfd):
    path = write(tmp_path / "t.npz", faces[0], faces[1] * 3)
    prepare.main(["--features", path, "--output", str(tmp_path), "--test-size", "100"])
    line = capfd.readouterr().err
    assert "embeddings of 512 numbers, median norm 3, of the network of models/facenet" in line
