"""prepare.py: children apart, and the views of a face on one side."""

import numpy as np
import pytest

import prepare
from age_gender import records
from age_gender.readers import writing


def prepared(table, folder, *more: str) -> dict[str, records.Records]:
    """The records that prepare.py makes of a table, by their file's name."""
    prepare.main(["--features", str(table), "--output", str(folder), "--test-size", "150", *more])
    return {path.stem: records.read(path) for path in sorted(folder.glob("*.tfrecords"))}


def test_children_are_kept_apart_and_a_tenth_of_them_for_testing(table, faces, tmp_path, capfd):
    found = prepared(table, tmp_path)
    young = {name for name in faces[0] if int(name.split("_")[0]) < 10}
    assert len(young) > 100
    assert {*found["children"].file_name, *found["children_test"].file_name} == young
    assert len(found["children_test"].age) == pytest.approx(len(young) / 10, abs=1)
    assert not {*found["children"].file_name} & {*found["children_test"].file_name}
    assert min(found["train"].age.min(), found["test"].age.min()) == 10
    assert f"children: {len(young)}, without" in capfd.readouterr().out


def test_without_children_those_of_an_earlier_run_go(table, tmp_path):
    assert len(prepared(table, tmp_path)) == 4
    assert sorted(prepared(table, tmp_path, "--min-age", "0")) == ["test", "train"]


def test_the_views_of_a_face_are_never_on_two_sides_and_tested_once(faces, tmp_path):
    names, features = faces
    views = np.concatenate([features, features[::-1] + 0.001])  # two rows a name
    path = tmp_path / "views.npz"
    writing.write(path, [*names, *names[::-1]], [views])
    found = prepared(path, tmp_path)
    for test, train in (("test", "train"), ("children_test", "children")):
        assert not {*found[test].file_name} & {*found[train].file_name}
        assert len({*found[test].file_name}) == len(found[test].file_name)
        assert len(found[train].file_name) == 2 * len({*found[train].file_name})
    first = dict(zip(names, features, strict=True))
    for name, row in zip(found["test"].file_name, found["test"].features, strict=True):
        np.testing.assert_array_equal(row, first[name])
