"""Cropping changes embeddings by linear maps that are fitted on views, and that networks learn."""

import json

import numpy as np
import pytest
from conftest import script, training

import prepare
import train
from age_gender import embedding_space, paths, table_writing, trained_models, view_files
from age_gender.errors import InputError
from age_gender.processes import tensorflow_import
from age_gender.training import crop_augmentation, data_loading, records
from age_gender.training.crop_augmentation import UnusableViews


@pytest.fixture(scope="module")
def views() -> view_files.Views:
    """800 faces of the shipped table, through its eleven crops."""
    whole = view_files.read_views(paths.VIEWS)
    return whole._replace(names=whole.names[::4], embeddings=whole.embeddings[::4])


@pytest.fixture(scope="module")
def records_of_views(views, tmp_path_factory):
    """A folder with the records of their plain crop, and views.npz."""
    folder = tmp_path_factory.mktemp("views")
    table_writing.write(folder / "plain.npz", views.names, [views.embeddings[:, 0]])
    prepare.main(["--features", str(folder / "plain.npz"), "--output", str(folder),
                  "--test-size", "200"])  # fmt: skip
    np.savez(folder / "views.npz", filenames=np.array(views.names), crops=np.array(views.crops),
             embeddings=views.embeddings)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def components(views) -> np.ndarray:
    """Return their half-whitened principal components (800, 11, k), as the network reads them."""
    space = embedding_space.fit(views.embeddings[:, 0], folds=0)
    kernel = (space.axes / np.sqrt(space.deviations))[:, : space.component_count]
    return (views.embeddings - space.mean) @ kernel


@pytest.fixture(scope="module")
def maps(components) -> crop_augmentation.CropMaps:
    return crop_augmentation.fit_crop_maps(components)


def trained(folder, models, *more: str) -> dict:
    """What train.py says of a model of these records, trained with the views beside them."""
    train.main(training(folder, models, "--epochs", "5", "--views", str(folder / "views.npz"),
                        *more))  # fmt: skip
    return json.loads((models / trained_models.DESCRIPTION).read_text())


@pytest.fixture(scope="module")
def model(records_of_views, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    assert trained(records_of_views, folder)["crops"] == 10
    return folder


# -------------------------------------------------------------------------------- maps


def test_a_map_that_is_linear_is_found_with_its_noise():
    random = np.random.default_rng(0)
    plain = random.normal(size=(4000, 20)) * np.linspace(2, 0.5, 20) ** 0.5  # whitened half-way
    turned = np.linalg.qr(random.normal(size=(20, 20)))[0]
    noise = random.normal(size=(20, 20)) / 20
    through = plain @ turned + 3 + random.normal(size=(4000, 20)) @ noise
    maps = crop_augmentation.fit_crop_maps(np.stack([plain, through], axis=1))
    np.testing.assert_allclose(maps.matrices[0], turned, atol=0.1)
    np.testing.assert_allclose(maps.offsets[0], 3, atol=0.1)
    covariance = maps.noise_factors[0].T @ maps.noise_factors[0]
    np.testing.assert_allclose(covariance, noise.T @ noise, atol=0.02)


def test_maps_come_closer_to_unseen_faces_through_wide_crops_than_the_plain_crop(views, components):
    maps = crop_augmentation.fit_crop_maps(components[::2])
    plain, others = components[1::2, 0], components[1::2, 1:]
    for number, crop in enumerate(views.crops[1:]):
        if "box" not in crop and "whitened" not in crop:
            continue
        mapped = plain @ maps.matrices[number] + maps.offsets[number]
        residual, before = [np.square(others[:, number] - x).sum() for x in (mapped, plain)]
        assert residual < 0.8 * before, crop


def test_half_of_the_faces_go_through_a_crop_and_the_same_seed_gives_the_same(components, maps):
    plain = components[:, 0]
    first, again, other = [
        crop_augmentation.augment(plain, maps, np.random.default_rng(s), fraction=0.5)
        for s in (1, 1, 2)
    ]
    np.testing.assert_array_equal(first, again)
    changed = (first != plain).any(axis=1)
    assert 0.42 < changed.mean() < 0.58
    assert (changed != (other != plain).any(axis=1)).any()
    everyone = crop_augmentation.augment(plain, maps, np.random.default_rng(1), fraction=1)
    assert (everyone != plain).any(axis=1).all()


# ---------------------------------------------------------------------------- training


def accuracy(done) -> dict[str, float]:
    """The MAE that test.py --views printed, by crop."""
    lines = done.out.partition("Summary:")[2].splitlines()[2:]
    return {line.split(":")[0]: float(line.split("Age_MAE:")[1].split(",")[0]) for line in lines}


def test_a_model_that_learnt_the_crops_is_better_through_them(records_of_views, model, tmp_path):
    folder = records_of_views
    trained(folder, tmp_path, "--views", "none")
    judge = ["--test", folder / "test.tfrecords", "--views", folder / "views.npz", "--model"]
    with_views, without = [script("test.py", *judge, path) for path in (model, tmp_path)]
    assert with_views.code == without.code == 0, with_views.err
    with_views, without = accuracy(with_views), accuracy(without)
    assert len(with_views) == 11 and list(with_views)[0] == "chip"
    for crop in ("box_margin", "box_random_whitened", "box_margin_whitened"):
        assert with_views[crop] < without[crop] - 0.3, (with_views, without)


def test_what_an_epoch_shows_follows_from_its_seed_and_number(components, maps):
    plain = components[:, 0]
    count = len(plain)
    faces = train.Faces(plain, plain, np.arange(count), np.arange(count) % 2, np.ones(count, bool))

    def shown(seed: int, *epochs: int) -> tuple[np.ndarray, np.ndarray]:
        shown = train.batches(faces, maps, epochs, 7, seed, crop_fraction=0.5)
        pairs = [(components, labels["age"]) for components, labels, _ in shown]
        return tuple(np.concatenate(part) for part in zip(*pairs, strict=True))

    both, second, other = shown(1, 0, 1), shown(1, 1), shown(2, 1)
    for whole, resumed, differs in zip(both, second, other, strict=True):
        np.testing.assert_array_equal(whole[count:], resumed)  # as after an interruption
        assert (whole[:count] != resumed).any() and (differs != resumed).any()
    assert sorted(second[1]) == [*range(count)]


def test_no_crop_of_a_known_face_is_out_of_distribution(views, model):
    from age_gender.scoring.scorer import Scorer

    scorer = Scorer((model / trained_models.LITERT_MODEL).read_bytes(), "model")
    for number, crop in enumerate(views.crops):
        assert scorer.score_by_name(views.embeddings[:, number])["distance"].max() < 0.1, crop


def test_held_out_and_test_faces_are_never_fitted_on(
    views, records_of_views, tmp_path, monkeypatch
):
    folder, fitted = records_of_views, []
    select_training_views = data_loading.select_training_views
    monkeypatch.setattr(
        data_loading,
        "select_training_views",
        lambda *args: fitted.append(select_training_views(*args)) or 1 / 0,
    )
    with pytest.raises(ZeroDivisionError):
        trained(folder, tmp_path)
    likeness = fitted[0][:, 0] @ views.embeddings[:, 0].T
    known = {views.names[place] for place in likeness.argmax(axis=1)}
    inside = {
        part: np.mean(
            [name in known for name in records.read(folder / f"{part}.tfrecords").file_names]
        )
        for part in ("train", "test", "children", "children_test")
    }
    assert inside["test"] < 0.01 and inside["children_test"] < 0.01  # UTKFace's own copies
    assert inside["train"] == pytest.approx(0.8, abs=0.01)
    assert inside["children"] == pytest.approx(0.8, abs=0.03)


def test_views_of_another_network_or_of_too_few_training_faces_are_refused(views, tmp_path):
    space = embedding_space.fit(views.embeddings[:, 0])
    is_held_out = np.zeros(len(views.names), bool)
    path = tmp_path / "other.npz"
    for wrong in (views.embeddings[:, :2, ::-1], views.embeddings[:, :2, :64]):
        np.savez(path, filenames=np.array(views.names), embeddings=wrong,
                 crops=np.array(views.crops[:2]))  # fmt: skip
        with pytest.raises(UnusableViews, match="another network"):
            crop_augmentation.select_training_views(path, space, views.names, is_held_out)
    np.savez(path, filenames=np.array(views.names), embeddings=views.embeddings[:, :2],
             crops=np.array(views.crops[:2]))  # fmt: skip
    with pytest.raises(UnusableViews, match="has 0 training faces, and 200 are needed"):
        crop_augmentation.select_training_views(
            path, space, views.names[:300], is_held_out[:300] | True
        )
    used = crop_augmentation.select_training_views(path, space, ["somebody else"], is_held_out[:1])
    assert len(used) == len(views.names)


def test_missing_views_and_children_are_an_error_unless_they_are_the_defaults(
    mobile_folder, tmp_path, capfd, monkeypatch
):
    for option in ("--views", "--children"):
        arguments = training(tmp_path, tmp_path, option, str(tmp_path / "missing.file"))
        for name in ("train", "children"):
            (tmp_path / f"{name}.tfrecords").touch()
        with pytest.raises(InputError, match=r"missing\.file: no such file; give another, or none"):
            train.main(arguments)
    absent = tmp_path / "views.npz"
    monkeypatch.setattr(paths, "VIEWS", absent)
    monkeypatch.setattr(train, "fit", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # it went on without the views
        train.main(training(mobile_folder, tmp_path, "--views", str(absent)))
    said = [line for line in capfd.readouterr().err.splitlines() if "views.npz" in line]
    assert len(said) == 1 and "without crop augmentation" in said[0] and "embed.py" in said[0]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", "names only", "nan"])
def test_a_file_that_holds_no_views_is_refused(tmp_path, content):
    path = tmp_path / "views.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        more = {} if content == "names only" else {"embeddings": np.full((2, 2, 8), np.nan)}
        np.savez(path, filenames=np.array(["a", "b"]), crops=np.array(["plain", "other"]), **more)
    with pytest.raises(InputError, match=r"needs filenames"):
        view_files.read_views(path)


# ---------------------------------------------------------------------------- children


def estimates_of_children(records_folder, model) -> dict[str, np.ndarray]:
    """Return the outputs of the exported model for the children among the records."""
    from age_gender.scoring.scorer import Scorer

    children = records.read(records_folder / "children.tfrecords")
    scorer = Scorer((model / trained_models.LITERT_MODEL).read_bytes(), "model")
    return scorer.score_by_name(children.features)


def test_children_are_estimated_as_children_and_their_gender_as_a_guess(
    record_folder, model_folder
):
    outputs = estimates_of_children(record_folder, model_folder)
    certainty = np.maximum(outputs["female_probability"], 1 - outputs["female_probability"])
    assert np.mean(outputs["age"] < 10) > 0.7
    assert certainty[outputs["age"] < 2].mean() < 0.75


def test_without_children_in_the_training_none_is_estimated_as_one(mobile_folder):
    outputs = estimates_of_children(mobile_folder, mobile_folder / "model")
    assert len(outputs["age"]) > 100 and np.mean(outputs["age"] < 10) < 0.1


def test_the_genders_of_children_are_not_learnt(record_folder, model_folder, tmp_path, monkeypatch):
    other = tmp_path / "records"
    other.mkdir()
    children = records.read(record_folder / "children.tfrecords")
    rows = zip(
        children.features, children.age, 1 - children.gender, children.file_names, strict=True
    )
    records.write(other / "children.tfrecords", [(f, int(a), int(g), n) for f, a, g, n in rows])
    tensorflow_import.import_tensorflow()
    import keras

    import network_conv

    monkeypatch.setattr(network_conv, "to_litert", lambda _: b"")  # the export takes long
    train.main(training(record_folder, tmp_path, "--children", str(other / "children.tfrecords")))

    weights = [
        keras.saving.load_model(folder / trained_models.KERAS_MODEL, compile=False).get_weights()
        for folder in (model_folder, tmp_path)
    ]
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_views_whose_names_are_no_list_of_texts_are_refused(tmp_path, views):
    good = {"filenames": views.names[:3], "crops": views.crops, "embeddings": views.embeddings[:3]}
    no_code_point = np.frombuffer(np.full(12, 0x110000, np.uint32).tobytes(), "<U4")
    for change in (
        {"filenames": np.arange(3)}, {"filenames": np.array([["a", "b", "c"]]).T},
        {"crops": np.arange(len(views.crops))}, {"filenames": np.array(["a", "b", "\udcff"])},
        {"filenames": no_code_point}, {"filenames": np.array([b"a", b"b", b"\xff"])},
    ):  # fmt: skip
        np.savez(tmp_path / "v.npz", **good | change)
        with pytest.raises(InputError, match="needs filenames"):
            view_files.read_views(tmp_path / "v.npz")
    np.savez(tmp_path / "v.npz", **good | {"filenames": np.array([b"a", "é".encode(), b"c"])})
    assert view_files.read_views(tmp_path / "v.npz").names == ["a", "é", "c"]


def test_views_that_do_not_fit_into_memory_are_not_called_faulty(tmp_path, views, monkeypatch):
    np.savez(
        tmp_path / "v.npz", filenames=["a"], crops=views.crops, embeddings=[views.embeddings[0]]
    )

    def fail(rows):
        raise MemoryError

    monkeypatch.setattr(view_files, "to_unit_length", fail)
    with pytest.raises(MemoryError):
        view_files.read_views(tmp_path / "v.npz")


def test_the_name_of_a_crop_cannot_steer_a_terminal(tmp_path):
    path, rows = tmp_path / "views.npz", np.ones((1, 2, 16), np.float32)
    np.savez(path, filenames=["a"], crops=["plain", "\x1b[2J\x1b]0;title\x07\n"], embeddings=rows)
    assert view_files.read_views(path).crops == ["plain", r"\x1b[2J\x1b]0;title\x07"]
