"""prepare.py: which file a row goes to, what ends the run, and that every row is counted."""

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import refused, script, training
from prepared_tables import WIDTH, prepared, refusal, vectors, write

import prepare
import train
from age_gender import table_writing
from age_gender.errors import InputError
from age_gender.training import records

# ---------------------------------------------------------------------- children and views


def test_children_are_kept_apart_and_a_tenth_of_them_for_testing(table, faces, tmp_path, capfd):
    parts = prepared(table, tmp_path)
    children = {name for name in faces[0] if int(name.split("_")[0]) < 10}
    assert len(children) > 100
    assert {*parts["children"].file_names, *parts["children_test"].file_names} == children
    assert len(parts["children_test"].age) == pytest.approx(len(children) / 10, abs=1)
    assert not {*parts["children"].file_names} & {*parts["children_test"].file_names}
    assert min(parts["train"].age.min(), parts["test"].age.min()) == 10
    men = sum(name.split("_")[1] == "0" for name in faces[0])
    assert capfd.readouterr().out.splitlines()[:3] == [
        "read 900",
        f"train: {750 - len(children)}, test: 150, children: {len(children)}, without labels: 0, "
        "repeated: 0",
        f"men: {men}, women: {900 - men}",
    ]


def test_without_children_those_of_an_earlier_run_go(few, tmp_path):
    assert len(prepared(few, tmp_path)) == 4
    assert sorted(prepared(few, tmp_path, "--min-age", "0")) == ["test", "train"]


def test_the_views_of_a_face_are_never_on_two_sides_and_tested_once(few_faces, tmp_path, capfd):
    names, features = few_faces
    views = np.concatenate([features, features[::-1] + 0.001])  # two rows a name
    path = tmp_path / "views.npz"
    table_writing.write(path, [*names, *names[::-1]], [views])
    parts = prepared(path, tmp_path, test_size=100)
    for test, train_part in (("test", "train"), ("children_test", "children")):
        assert not {*parts[test].file_names} & {*parts[train_part].file_names}
        assert len({*parts[test].file_names}) == len(parts[test].file_names)
        assert len(parts[train_part].file_names) == 2 * len({*parts[train_part].file_names})
    first = dict(zip(names, features, strict=True))
    for name, row in zip(parts["test"].file_names, parts["test"].features, strict=True):
        np.testing.assert_array_equal(row, first[name])
    repeated = len(parts["test"].age) + len(parts["children_test"].age)
    assert f"repeated: {repeated}\n" in capfd.readouterr().out


@pytest.fixture(scope="module")
def few_faces(faces):
    """240 of these faces: fewer take less time."""
    return [part[:720:3] for part in faces]


@pytest.fixture(scope="module")
def few(few_faces, tmp_path_factory) -> Path:
    """These faces as an NPZ."""
    path = tmp_path_factory.mktemp("few") / "few.npz"
    table_writing.write(path, few_faces[0], [few_faces[1]])
    return path


# ------------------------------------------------------------------------------------ names


def test_rows_of_one_name_with_other_labels_end_the_run(tmp_path):
    table = {"name": ["a", "b", "a", "c"], "gender": [*"mfmf"], "e": vectors(4)}
    path = write(tmp_path / "t.jsonl", age=[20, 30, 21, 40], **table)
    said = refusal(path)
    for word in (
        "t.jsonl: row 1 (line 1), male aged 20,",
        "t.jsonl: row 3 (line 3), male aged 21,",
        "have the same name, a, but different labels",
        "--name-col",
    ):
        assert word in said
    path = write(tmp_path / "t.jsonl", age=[20, 30, 20, 40], **{**table, "gender": [*"mfff"]})
    assert "row 3 (line 3), female aged 20," in refusal(path)


def test_a_column_of_persons_is_called_that(tmp_path):
    path = write(tmp_path / "t.jsonl", name=[*"abcd"] * 5, age=[*range(20, 40)],
                 gender=[*"mfmf"] * 5, e=vectors(20))  # fmt: skip
    said = refusal(path)
    assert "only 4 names for 20 rows, probably of persons" in said and "--name-column" in said
    path = write(tmp_path / "t.jsonl", name=[*"abcd"] * 5, photo=[*range(20)], e=vectors(20),
                 age=[*range(20, 40)], gender=[*"mfmf"] * 5)  # fmt: skip
    assert len(prepared(path, tmp_path, "--name-column", "photo", test_size=5)["train"].age) == 15


def test_names_of_two_files_are_of_one_face_only_if_their_labels_agree(tmp_path):
    names, genders = [f"{i:05}.jpg" for i in range(12)], [*"mf"] * 6
    one = write(tmp_path / "a.jsonl", name=names, age=[*range(20, 32)], gender=genders,
                e=vectors(12))  # fmt: skip
    other = write(tmp_path / "b.jsonl", name=names, age=[*range(20, 31), 60], gender=genders,
                  e=vectors(12, 1))  # fmt: skip
    said = refusal(one, other)
    for word in (
        "a.jsonl: row 12 (line 12), female aged 31,",
        "b.jsonl: row 12 (line 12), female aged 60,",
        "00011.jpg",
    ):
        assert word in said
    same = write(tmp_path / "c.jsonl", name=names, age=[*range(20, 32)], gender=genders,
                 e=vectors(12, 2))  # fmt: skip
    parts = prepared(one, tmp_path / "one", "--features", str(one), str(same), test_size=4)
    assert not {*parts["train"].file_names} & {*parts["test"].file_names}
    assert (len(parts["train"].file_names), len(parts["test"].file_names)) == (16, 4)


def test_a_row_without_a_name_is_a_view_of_no_other(tmp_path):
    """Such as the first of pandas' index of floats: its number is another row's name."""
    path = write(tmp_path / "t.jsonl", id=[None, 1, None, *range(4, 20)], gender=["m", *"mf" * 9],
                 age=[20, 20, *range(22, 39)], e=vectors(19))  # fmt: skip
    parts = prepared(path, tmp_path, test_size=5)
    assert len(parts["train"].age) == 14
    table = {"name": ["", "", *"abcdefgh"], "gender": [*"mf"] * 5, "e": vectors(10)}
    path = write(tmp_path / "t.jsonl", age=[*range(20, 30)], **table)
    assert {"1", "2"} <= {name for part in prepared(path, tmp_path, test_size=3).values()
                          for name in part.file_names}  # fmt: skip


# ----------------------------------------------------------------------------------- labels


def test_records_of_one_gender_are_refused_unless_that_is_said(tmp_path):
    table = {"age": [*range(20, 40)], "gender": ["f"] * 10 + ["woman"] * 10, "e": vectors(20)}
    table["gender"] = ["female"] * 10 + ["woman"] * 10
    path = write(tmp_path / "t.jsonl", **table)
    assert "20 faces" in refusal(path) and "--gender-codes female=female,woman=fem" in refusal(path)
    assert "20 faces" in refusal(path, "--gender-codes", "man=male,female=female,woman=female")
    codes = ["--gender-codes", "female=female,woman=female"]
    assert {*prepared(path, tmp_path, *codes, test_size=5)["train"].gender} == {1}


def labelled(path: Path, few_faces, gender, age=None) -> Path:
    """A table of these faces, with their own ages and with genders or ages as they are given."""
    labels = np.array([[int(number) for number in name.split("_")[:2]] for name in few_faces[0]])
    columns = {"age": labels[:, 0] if age is None else age, "gender": gender(labels[:, 1])}
    np.savez(
        path, filenames=[f"{i}.jpg" for i in range(len(labels))], embeddings=few_faces[1], **columns
    )
    return path


def test_genders_the_wrong_way_round_are_seen_by_a_model_of_the_same_embeddings(
    few_faces, tmp_path
):
    path = labelled(tmp_path / "t.npz", few_faces, lambda gender: 1 - gender)
    said = refusal(path)
    assert "models/facenet" in said and "of 240 genders" in said
    assert "--gender-codes 0=female,1=male" in said and "--gender-codes 0=male,1=female" in said
    turned = prepared(path, tmp_path, "--gender-codes", "0=female,1=male")
    names = {f"{i}.jpg": int(name.split("_")[1]) for i, name in enumerate(few_faces[0])}
    assert all(
        names[name] == gender
        for name, gender in zip(turned["train"].file_names, turned["train"].gender, strict=True)
    )
    insisted = prepared(path, tmp_path, "--gender-codes", "0=male,1=female")
    assert (insisted["train"].gender == 1 - turned["train"].gender).all()


def test_a_file_coded_unlike_the_others_is_named(few_faces, tmp_path):
    one = labelled(tmp_path / "a.npz", [part[:130] for part in few_faces], lambda gender: gender)
    rest = [part[130:] for part in few_faces]
    other = labelled(tmp_path / "b.npz", rest, lambda gender: 1 - gender)
    said = refusal(one, other)
    assert (
        "b.npz: " in said and "of 110 genders" in said and "code the genders of all files" in said
    )


def test_genders_that_have_nothing_to_do_with_the_faces_are_warned_of(few_faces, tmp_path, capfd):
    swap = np.arange(240) % 100 < 44
    path = labelled(
        tmp_path / "t.npz", few_faces, lambda gender: np.where(swap, 1 - gender, gender)
    )
    prepared(path, tmp_path)
    assert "of 240 genders contradict the estimates of" in capfd.readouterr().err


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.9])
def test_rows_of_another_network_end_the_run_however_many_they_are(few_faces, tmp_path, fraction):
    names, features = few_faces
    other = np.arange(240) % 20 < 20 * fraction
    mixed = np.where(other[:, None], features[:, ::-1], features)
    path = labelled(tmp_path / "t.npz", (names, mixed), lambda gender: gender)
    said = refusal(path)
    assert "t.npz: row 1: 0.jpg" in said and f"({other.sum()} of 240)" in said


def test_a_column_that_contradicts_the_genders_ends_the_run(tmp_path, capfd):
    table = {"age": [*range(20, 40)], "Male": [1, 0] * 10, "e": vectors(20)}
    path = write(tmp_path / "t.jsonl", **table, female=[0, 1] * 9 + [1, 1])
    assert "t.jsonl: row 19 (line 19): male by the column male, female by the" in refusal(path)
    path = write(tmp_path / "t.jsonl", **table, sex=[2, 3] * 10)
    assert "the column sex holds 2 (10 rows)" in refusal(path)
    path = write(tmp_path / "t.jsonl", **table, female=[2, 3] * 10)
    assert prepared(path, tmp_path, test_size=5)
    assert "columns left out: female" in capfd.readouterr().err


def test_a_table_without_labels_is_told_what_is_there(tmp_path):
    path = write(tmp_path / "t.jsonl", age=[20, 30], Anrede=[*"mw"], e=vectors(2))
    assert "(2 rows, 2 with an age, 0 with a gender; columns left out: Anrede)" in refusal(path)


def test_codes_that_are_the_wrong_way_round_must_be_given_twice(few_faces, tmp_path):
    path = labelled(tmp_path / "t.npz", few_faces, lambda gender: gender + 1)  # 1 male, 2 female
    assert "--gender-codes 1=male,2=female" in refusal(path)
    wrong = ["--gender-codes", "1=female,2=male"]
    assert "given twice" in refusal(path, *wrong)
    assert len(prepared(path, tmp_path, *wrong, *wrong)) == 4
    with pytest.raises(InputError, match="two genders"):
        prepare.main(["--features", str(path), *wrong, "--gender-codes", "1=male"])


def test_fewer_than_a_hundred_faces_are_no_evidence_against_their_genders(few_faces, tmp_path):
    few = [part[:99] for part in few_faces]
    path = labelled(tmp_path / "t.npz", few, lambda gender: 1 - gender)
    assert prepared(path, tmp_path, test_size=20)


def test_ages_that_have_nothing_to_do_with_the_faces_are_warned_of(few_faces, tmp_path, capfd):
    ages = np.random.default_rng(0).permutation([int(name.split("_")[0]) for name in few_faces[0]])
    prepared(labelled(tmp_path / "t.npz", few_faces, lambda gender: gender, ages), tmp_path)
    assert "t.npz: the ages disagree with the estimates of" in capfd.readouterr().err
    prepared(labelled(tmp_path / "t.npz", few_faces, lambda gender: gender), tmp_path)
    assert "warning" not in capfd.readouterr().err


def test_numbers_of_classes_are_seen_where_children_were_said(few_faces, tmp_path):
    classes = np.array([min(int(name.split("_")[0]) // 10, 8) for name in few_faces[0]])
    path = labelled(tmp_path / "t.npz", few_faces, lambda gender: gender, classes)
    assert "class numbers" in refusal(path)
    assert "look like class numbers" in refusal(path, "--min-age", "0")


# -------------------------------------------------------------------------- paths and kills


def test_an_input_is_never_overwritten(table, tmp_path):
    for name in ("train", "test", "children", "children_test"):
        folder = tmp_path / name
        folder.mkdir()
        source = folder / f"{name}.tfrecords"
        shutil.copy(table.with_suffix(".npz"), source)
        with pytest.raises(InputError, match="would overwrite this input"):
            prepare.main(["--features", str(source), "--output", str(folder)])
        link = tmp_path / f"{name}.npz"
        link.symlink_to(source)
        with pytest.raises(InputError, match="would overwrite this input"):
            prepare.main(["--features", str(link), "--output", str(folder)])
        assert source.read_bytes() == table.read_bytes()


def test_records_that_were_being_replaced_are_refused_until_prepare_has_run_again(
    few, tmp_path, monkeypatch
):
    folder, old = tmp_path / "records", tmp_path / "old"
    prepared(few, folder)
    shutil.copytree(folder, old)

    def fail(*_) -> None:
        raise KeyboardInterrupt

    replace, calls = records.atomic_path, []

    @contextlib.contextmanager
    def dies_at_the_second_rename(path):
        with replace(path) as temporary:
            yield temporary
            calls.append(path)
            if len(calls) == 2:
                fail()

    monkeypatch.setattr(records, "atomic_path", dies_at_the_second_rename)
    with pytest.raises(KeyboardInterrupt):
        prepared(few, folder, "--seed", "1")
    monkeypatch.undo()
    changed = [p.name for p in sorted(old.iterdir())
               if p.read_bytes() != (folder / p.name).read_bytes()]  # fmt: skip
    assert len(changed) == 1  # a set of two runs
    with pytest.raises(InputError, match=r"from two runs; run it again: python prepare\.py"):
        train.main(training(folder, tmp_path / "models"))
    assert len(prepared(few, folder)) == 4


def test_a_seed_that_no_training_takes_is_refused(few, tmp_path):
    for name in ("prepare.py", "train.py"):
        done = script(name, "--seed", "4294967296")
        refused(done, "--seed", "'4294967296' is not a whole number from 0 to 4294967295")
    assert prepared(few, tmp_path, "--seed", "4294967295")


def test_rows_of_zeros_and_names_that_are_no_text_end_the_run(tmp_path):
    zeros = vectors(3)
    zeros[1] = [0.0] * WIDTH
    labels = {"age": [20, 30, 40], "gender": [*"mfm"]}
    said = refusal(write(tmp_path / "t.jsonl", **labels, e=zeros))
    assert "t.jsonl: row 2 (line 2)" in said and "zeros" in said
    said = refusal(write(tmp_path / "t.jsonl", name=["a", "b", "\ud800"], **labels, e=vectors(3)))
    assert "t.jsonl: row 3 (line 3)" in said and "UTF-8" in said
