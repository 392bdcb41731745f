"""Copies of a face are found, counted and kept together."""

import numpy as np
import pytest

import prepare
from age_gender import table_writing
from age_gender.embeddings import to_unit_length
from age_gender.training import near_duplicates, records

RANDOM = np.random.default_rng(7)


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
    table_writing.write(path, names + copy_names, [np.concatenate([features, copies])])
    return str(path), names, copy_names


def run_prepare(path, folder, capfd, *more):
    prepare.main(["--features", path, "--output", str(folder), "--test-size", "90", *more])
    text = capfd.readouterr().out
    parts = [
        set(records.read(folder / f"{part}.tfrecords").file_names) for part in ("train", "test")
    ]
    return text, *parts


def test_the_random_split_counts_test_faces_with_a_copy_in_training(with_copies, tmp_path, capfd):
    path, names, copies = with_copies
    text, train, test = run_prepare(path, tmp_path, capfd)
    pairs = list(zip(names, copies, strict=False))
    separated = sum((a in test and b in train) or (b in test and a in train) for a, b in pairs)
    assert separated > 0
    counted = int(text.rsplit("near-duplicate in training: ")[1])
    # UTKFace's own copies among these faces may add to the ones made here.
    assert separated <= counted <= separated + 10


def test_the_identity_split_keeps_copies_on_one_side(with_copies, tmp_path, capfd):
    path, names, copies = with_copies
    text, train, test = run_prepare(path, tmp_path, capfd, "--split", "identity")
    assert len(test) == 90 and not train & test
    for name, copy in zip(names, copies, strict=False):
        assert (name in test) == (copy in test)
    assert "near-duplicate in training: 0" in text


def test_copies_are_the_connected_components_whatever_the_tiles(faces, monkeypatch):
    a, b = to_unit_length(faces[1][:2])
    angles = np.linspace(0, np.pi / 2, 9)[:, None]  # neighbours are copies, next ones are not
    chain = np.cos(angles) * a + np.sin(angles) * (b - (a @ b) * a) / np.sqrt(1 - (a @ b) ** 2)
    unit = to_unit_length(np.concatenate([faces[1][2:400], chain, faces[1][2:50]]))
    group, alike = np.arange(len(unit)), unit @ unit.T > near_duplicates.MIN_COSINE
    for _ in range(len(chain)):
        group = np.where(alike, group, len(unit)).min(axis=1)
    assert len(set(group[398:407])) == 1 and not alike[398, 400]
    monkeypatch.setattr(near_duplicates, "TILE_QUERIES", 70)
    monkeypatch.setattr(near_duplicates, "TILE_FACES", 50)
    every = np.arange(len(unit))
    groups = near_duplicates.group_near_duplicates(unit, every, every)
    assert [np.flatnonzero(groups == number)[0] for number in groups] == group.tolist()
