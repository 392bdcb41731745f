"""The pipeline on embeddings of another network and width: MobileFaceNet's 192 numbers."""

import numpy as np
import pytest
from conftest import refused, script

import train
from age_gender import embedding_space, paths, table_writing
from age_gender.embeddings import to_unit_length


def test_a_model_of_192_numbers_is_judged_and_scores_any_table(mobile, mobile_folder, tmp_path):
    names, features = mobile
    model, judged_on = mobile_folder / "model", mobile_folder / "test.tfrecords"
    judged = script("test.py", "--test", judged_on, "--model", model)
    assert judged.code == 0 and "Summary:" in judged.out, judged.err
    outputs = []
    for suffix in ("csv", "npz", "parquet"):
        path = tmp_path / f"t.{suffix}"
        table_writing.write(path, names, [features])
        done = script("run.py", "--features", path, "--model", model)
        assert done.code == 0, done.err
        outputs.append(done.out)
    assert outputs[0] == outputs[1] == outputs[2]
    assert outputs[0].count("\n") == 901


def test_rows_of_another_network_are_refused_both_ways(faces, mobile, mobile_folder, tmp_path):
    model = mobile_folder / "model"
    ours, theirs = tmp_path / "facenet.npz", tmp_path / "mobile.npz"
    table_writing.write(ours, faces[0], [faces[1]])
    table_writing.write(theirs, mobile[0], [mobile[1]])
    done = script("run.py", "--features", ours, "--model", model)
    refused(done, "facenet.npz", "512", "192")
    done = script("run.py", "--features", theirs, "--model", paths.FACENET)
    refused(done, "mobile.npz", "192 numbers, not 512")
    table_writing.write(theirs, mobile[0], [mobile[1][:, ::-1]])
    refused(script("run.py", "--features", theirs, "--model", model), "of another network than")


def test_a_model_is_not_judged_on_records_or_views_of_another_network(mobile_folder):
    records, ours = mobile_folder / "test.tfrecords", paths.FACENET
    refused(script("test.py", "--test", records, "--model", ours), "takes 512", "have 192")
    model = mobile_folder / "model"
    done = script("test.py", "--test", records, "--model", model, "--views", paths.VIEWS)
    refused(done, "utkface_views.npz", "views of their network")


def test_whitening_makes_the_principal_components_alike(mobile):
    import network_conv

    unit = to_unit_length(mobile[1])
    space = embedding_space.fit(unit, 75, folds=0)
    spread = {}
    for whitening in (0, 0.5, 1):
        components = network_conv.build_preprocessing(space, whitening).predict(unit, verbose=0)
        spread[whitening] = components.std(axis=0)[:60]
        if whitening < 1:
            assert np.square(components).mean() == pytest.approx(1, rel=0.02)
    assert spread[0][0] > 50 * spread[0][-1]
    assert np.allclose(spread[1], spread[1][0], rtol=0.02)
    assert np.allclose(spread[0] / spread[0][0], (spread[0.5] / spread[0.5][0]) ** 2, rtol=0.02)


@pytest.mark.parametrize("option", ["--whitening", "--crop-share"])
def test_a_share_is_a_number_from_0_to_1(option):
    for bad in ("1.5", "-0.1", "nan", "much"):
        with pytest.raises(SystemExit):
            train.parse_arguments([option, bad])
    name = option[2:].replace("-", "_")
    assert getattr(train.parse_arguments([option, "0.9"]), name) == 0.9
