"""Define the default paths, relative to the scripts and not to the current folder."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
EMBEDDINGS = DATA / "utkface.npz"
TRAIN_RECORDS = DATA / "train.tfrecords"
TEST_RECORDS = DATA / "test.tfrecords"
CHILDREN_RECORDS = DATA / "children.tfrecords"
CHILDREN_TEST_RECORDS = DATA / "children_test.tfrecords"
VIEWS = DATA / "utkface_views.npz"
MODELS = ROOT / "models"
FACENET = MODELS / "facenet"
LOGS = ROOT / "logs"
