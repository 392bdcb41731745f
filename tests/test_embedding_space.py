"""Embeddings of another kind are refused; copies of a face are found and kept together."""

import numpy as np
import pytest
from conftest import refused, script

import prepare
import run
from age_gender import copies, embedding_space, heads, paths, records
from age_gender.cli import InputError
from age_gender.readers import tables, writing
from age_gender.scoring import litert

RANDOM = np.random.default_rng(7)
ROTATION = np.linalg.qr(RANDOM.normal(size=(512, 512)))[0].astype(np.float32)
OTHERS = {
    "permuted": lambda x: x[:, RANDOM.permutation(512)],
    "reversed": lambda x: x[:, ::-1],
    "negated": lambda x: -x,
    "some signs flipped": lambda x: x * RANDOM.choice([-1, 1], 512).astype(np.float32),
    "rotated": lambda x: x @ ROTATION,
    "random": lambda x: RANDOM.normal(size=x.shape).astype(np.float32),
}


def write(path, names, features):
    writing.write(path, names, [np.ascontiguousarray(features)])
    return str(path)


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("rows", [1, 300])
def test_embeddings_of_another_kind_are_refused(faces, model_folder, tmp_path, other, rows):
    path = write(tmp_path / "t.npz", faces[0][:rows], OTHERS[other](faces[1][:rows]))
    output = tmp_path / "out.csv"
    arguments = ["--features", path, "--model", str(model_folder), "--output", str(output)]
    with pytest.raises(InputError, match="not the kind of embedding"):
        run.main(arguments)
    assert not output.exists()
    run.main([*arguments, "--force"])
    assert len(output.read_text().splitlines()) == rows + 1


def test_the_refusal_is_one_line_that_says_what_to_do(faces, model_folder, tmp_path):
    path = write(tmp_path / "t.csv", faces[0][:5], -faces[1][:5])
    done = script("run.py", "--features", path, "--model", model_folder)
    refused(done, "5 of 5 rows", "prepare.py", "train.py", "--force")
    assert done.out == ""


def test_strange_rows_among_good_ones_are_scored_and_counted(faces, model_folder, tmp_path):
    features = faces[1][:100].copy()
    features[[40, 70]] = features[[40, 70]][:, ::-1]
    path = write(tmp_path / "t.csv", faces[0][:100], features)
    done = script("run.py", "--features", path, "--model", model_folder)
    assert done.code == 0
    assert len(done.out.splitlines()) == 101
    assert "2 of 100 rows" in done.err and faces[0][40] in done.err


@pytest.mark.parametrize("start, end", [(1500, 3000), (2048, 2750)])  # in a block's first half
def test_a_wrong_stretch_in_a_long_file_is_refused(faces, model_folder, tmp_path, start, end):
    features = np.concatenate([faces[1]] * 5)  # 4,500 rows
    features[start:end] = features[start:end, ::-1]
    path = write(tmp_path / "t.npz", [str(i) for i in range(4500)], features)
    with pytest.raises(InputError, match="not the kind of embedding"):
        run.main(
            ["--features", path, "--model", str(model_folder), "--output", str(tmp_path / "o")]
        )


def test_no_held_out_face_is_taken_for_a_stranger(model_folder, record_folder):
    kind = embedding_space.measure(
        embedding_space.unit(records.read(record_folder / "train.tfrecords").features)
    )
    held_out = embedding_space.unit(records.read(record_folder / "test.tfrecords").features)
    assert kind.distance(held_out).max() < 0.5
    assert kind.distance(-held_out).min() > 1


@pytest.mark.parametrize("rounding, metadata", [(lambda x: np.round(x, 2), True),
                                            (lambda x: np.round(x * 127), True),
                                            (lambda x: np.round(x, 3), False),
                                            (lambda x: x.astype(np.float16), False)])  # fmt: skip
def test_embeddings_that_were_rounded_too_much_are_strangers(
    faces, record_folder, rounding, metadata
):
    kind = embedding_space.measure(
        embedding_space.unit(records.read(record_folder / "train.tfrecords").features)
    )
    distance = kind.distance(embedding_space.unit(rounding(faces[1]).astype(np.float32)))
    assert (np.mean(distance > 1) > 0.5) is np.bool_(metadata)


def test_the_exported_distance_is_the_one_that_was_measured(faces, record_folder, model_folder):
    parts = [records.read(record_folder / f"{name}.tfrecords") for name in ("train", "children")]
    trained = embedding_space.unit(np.concatenate([part.features for part in parts]))
    mixed = np.concatenate([faces[1][:50], -faces[1][:50], faces[1][:50, ::-1]])
    expected = embedding_space.measure(trained).distance(embedding_space.unit(mixed))
    model = (model_folder / heads.LITERT_MODEL).read_bytes()
    found = litert.Model(model, "model").outputs(mixed)["distance"]
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=1e-3)


def test_a_single_stranger_at_the_end_of_many_files_is_scored(faces, model_folder, tmp_path):
    good = write(tmp_path / "good.npz", *[part[:60] for part in faces])
    last = write(tmp_path / "z.npz", ["stranger"], faces[1][:1, ::-1])
    done = script("run.py", "--features", good, last, "--model", model_folder)
    assert done.code == 0 and len(done.out.splitlines()) == 62
    assert "1 of 61 rows" in done.err and "stranger" in done.err


@pytest.mark.parametrize("other", ["permuted", "negated", "random"])
def test_a_few_rows_of_another_kind_in_a_large_table_are_refused(other):
    names, features = tables.read([paths.EMBEDDINGS])
    places = np.random.default_rng(1).permutation(len(names))[:60]
    features[places] = OTHERS[other](features[places])
    unit = embedding_space.unit(features)
    parts = embedding_space.mixture(unit, embedding_space.measure(unit))
    assert set(parts[1]) >= set(places) and len(parts[1]) < 70


def test_tables_of_one_kind_are_no_mixture(faces):
    features = embedding_space.unit(faces[1])
    for table in (features, features[:450], features[:40], np.repeat(features[:10], 50, axis=0)):
        assert embedding_space.mixture(table, embedding_space.measure(table)) is None


def test_a_training_of_too_few_faces_says_that_it_tells_no_kind(faces, tmp_path, capfd):
    path = write(tmp_path / "t.npz", *[part[:300] for part in faces])
    prepare.main(["--features", path, "--output", str(tmp_path), "--test-size", "50"])
    assert "too few" in capfd.readouterr().err


@pytest.mark.parametrize("share", [0.4, 0.1])
@pytest.mark.parametrize("other", ["permuted", "random"])
def test_prepare_refuses_two_kinds_in_one_table(faces, tmp_path, other, share):
    names, features = faces[0], faces[1].copy()
    places = np.sort(RANDOM.permutation(len(names))[: int(share * len(names))])
    features[places] = OTHERS[other](features[places])
    path = write(tmp_path / "t.npz", names, features)
    with pytest.raises(InputError, match="two kinds") as caught:
        prepare.main(["--features", path, "--output", str(tmp_path), "--test-size", "100"])
    assert any(names[place] in str(caught.value) for place in places)  # it names one of them


def test_prepare_says_which_kind_it_saw(faces, tmp_path, capfd):
    path = write(tmp_path / "t.npz", faces[0], faces[1] * 3)
    prepare.main(["--features", path, "--output", str(tmp_path), "--test-size", "100"])
    line = capfd.readouterr().err
    assert "512 dimensions, lengths 3 to 3, effective rank" in line


# -------------------------------------------------------------------------------- copies


@pytest.fixture(scope="module")
def with_copies(faces, tmp_path_factory):
    """300 faces of 20 years and older, and 60 copies of them, slightly changed, some relabelled."""
    old = [i for i, name in enumerate(faces[0]) if int(name.split("_")[0]) >= 20][:300]
    names = [f"{faces[0][i]}" for i in old]
    features = faces[1][old]
    copies = features[:60] + RANDOM.normal(size=(60, 512)).astype(np.float32) * 1e-3
    copy_names = [f"{20 if i < 10 else name.split('_')[0]}_{name.split('_')[1]}_0_copy{i}"
                  for i, name in enumerate(names[:60])]  # fmt: skip
    path = tmp_path_factory.mktemp("copies") / "t.npz"
    return write(path, names + copy_names, np.concatenate([features, copies])), names, copy_names


def run_prepare(path, folder, capfd, *more):
    prepare.main(["--features", path, "--output", str(folder), "--test-size", "90", *more])
    text = capfd.readouterr().out
    parts = [
        set(records.read(folder / f"{part}.tfrecords").file_name) for part in ("train", "test")
    ]
    return text, *parts


def test_the_random_split_counts_test_faces_with_a_copy_in_training(with_copies, tmp_path, capfd):
    path, names, copies = with_copies
    text, train, test = run_prepare(path, tmp_path, capfd)
    pairs = list(zip(names, copies, strict=False))
    apart = sum((a in test and b in train) or (b in test and a in train) for a, b in pairs)
    assert apart > 0
    counted = int(text.rsplit("copy in training: ")[1])
    # UTKFace's own copies among these faces may add to the ones made here.
    assert apart <= counted <= apart + 10


def test_the_identity_split_keeps_copies_on_one_side(with_copies, tmp_path, capfd):
    path, names, copies = with_copies
    text, train, test = run_prepare(path, tmp_path, capfd, "--split", "identity")
    assert len(test) == 90 and not train & test
    for name, copy in zip(names, copies, strict=False):
        assert (name in test) == (copy in test)
    assert "copy in training: 0" in text


def test_copies_are_the_connected_components_whatever_the_tiles(faces, monkeypatch):
    a, b = embedding_space.unit(faces[1][:2])
    angles = np.linspace(0, np.pi / 2, 9)[:, None]  # neighbours are copies, next ones are not
    chain = np.cos(angles) * a + np.sin(angles) * (b - (a @ b) * a) / np.sqrt(1 - (a @ b) ** 2)
    unit = embedding_space.unit(np.concatenate([faces[1][2:400], chain, faces[1][2:50]]))
    group, alike = np.arange(len(unit)), unit @ unit.T > copies.COPY
    for _ in range(len(chain)):
        group = np.where(alike, group, len(unit)).min(axis=1)
    assert len(set(group[398:407])) == 1 and not alike[398, 400]
    monkeypatch.setattr(copies, "QUERIES", 70)
    monkeypatch.setattr(copies, "FACES", 50)
    every = np.arange(len(unit))
    found = copies.find_copies(unit, every, every)
    assert [np.flatnonzero(found == number)[0] for number in found] == group.tolist()
