"""Refuse files of formats that are not read, with the code that exports each to a table."""

from pathlib import Path
from typing import NamedTuple

from age_gender.errors import InputError


class _Format(NamedTuple):
    """Hold a format's suffixes, first bytes, name, and the code that exports {name} to {new}."""

    suffixes: tuple[str, ...]
    magics: tuple[bytes, ...]
    name: str
    export: str
    new_suffix: str = ".npz"


_PANDAS = "import pandas; pandas.{reader}({{name!r}}).to_csv({{new!r}}, index=False)"
FORMATS = (
    _Format((".pkl", ".pickle"), (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
            "a pickle, which is never opened",
            "import numpy, pandas; table = pandas.DataFrame(pandas.read_pickle({name!r})); "
            "numpy.savez({new!r}, filenames=numpy.array(table['identity'], str), "
            "embeddings=numpy.stack(table['embedding']))"),
    _Format((".pt", ".pth", ".ckpt"), (), "a PyTorch file, which is never opened",
            "import numpy, torch; tensor = torch.load({name!r}, weights_only=True); "
            "numpy.savez({new!r}, embeddings=tensor.cpu().numpy())"),
    _Format((".safetensors",), (), "a safetensors file",
            "import numpy; from safetensors.numpy import load_file; "
            "numpy.savez({new!r}, **load_file({name!r}))"),
    _Format((".xlsx", ".xls", ".xlsm", ".ods"), (b"\xd0\xcf\x11\xe0",), "a spreadsheet",
            _PANDAS.format(reader="read_excel") + " (or save it as CSV)", ".csv"),
    _Format((".h5", ".hdf5", ".hdf"), (b"\x89HDF\r\n\x1a\n",), "HDF5",
            "import h5py, numpy; file = h5py.File({name!r}); print(list(file)); "
            "numpy.savez({new!r}, filenames=file['filenames'].asstr()[:], "
            "embeddings=file['embeddings'][:])"),
    _Format((".mat",), (b"MATLAB 5.0 MAT-file",), "a MATLAB file",
            "import numpy, scipy.io; arrays = scipy.io.loadmat({name!r}); print(list(arrays)); "
            "numpy.savez({new!r}, embeddings=arrays['embeddings'])"),
    _Format((".faiss", ".index"),
            (b"IxF2", b"IxFI", b"IxFl", b"IwFl", b"IHNf", b"IxM2", b"IxMp", b"IwPQ", b"IxPq"),
            "a FAISS index, which has no names",
            "import faiss, numpy; index = faiss.read_index({name!r}); "
            "numpy.save({new!r}, index.reconstruct_n(0, index.ntotal))", ".npy"),
    _Format((".ann",), (), "an Annoy index, which has no names",
            "import annoy, numpy; index = annoy.AnnoyIndex(512, 'angular'); index.load({name!r}); "
            "numpy.save({new!r}, [index.get_item_vector(i) for i in range(index.get_n_items())])",
            ".npy"),
    _Format((".feather", ".arrow"), (b"ARROW1\0\0",), "an Arrow file",
            "import pandas; pandas.read_feather({name!r}).to_parquet({new!r})", ".parquet"),
    _Format((".orc",), (), "an ORC file",
            "import pandas; pandas.read_orc({name!r}).to_parquet({new!r})", ".parquet"),
    _Format((".avro",), (b"Obj\x01",), "an Avro file",
            "import fastavro, pandas; rows = fastavro.reader(open({name!r}, 'rb')); "
            "pandas.DataFrame(rows).to_parquet({new!r})", ".parquet"),
    _Format((".duckdb",), (), "a DuckDB database",
            "import duckdb; duckdb.connect({name!r}, read_only=True).sql('from faces')"
            ".write_parquet({new!r})", ".parquet"),
    _Format((".rds", ".rdata"), (), "an R file",
            "in R: write.csv(readRDS({name!r}), {new!r}, row.names = FALSE)", ".csv"),
    _Format((".lance",), (), "a LanceDB table",
            "import lancedb; table = lancedb.connect('.').open_table({stem!r}); "
            "table.to_pandas().to_parquet({new!r})", ".parquet"),
    _Format((".tfrecord", ".tfrecords", ".tfrecord.gz", ".tfrecords.gz"), (), "TFRecords",
            "import tensorflow; records = tensorflow.data.TFRecordDataset({name!r}, {packed}); "
            "write what tensorflow.io.parse_single_example gives of each with numpy.savez"),
    _Format((".sql",), (b"INSERT INTO ", b"CREATE TABLE ", b"PRAGMA foreign_keys", b"-- MySQL dump",
                        b"--\n-- PostgreSQL"), "an SQL dump",
            "load it into its database and export that: psql --csv, mysql --batch; SQLite's: "
            "sqlite3 {stem}.db < {name}, and give {stem}.db", ".csv"),
    _Format((".yaml", ".yml"), (b"%YAML",), "YAML",
            "import json, yaml; json.dump(yaml.safe_load(open({name!r})), open({new!r}, 'w'))",
            ".json"),
    _Format((".xml", ".html", ".htm"), (b"<?xml", b"<!DOCTYPE", b"<html"), "XML",
            _PANDAS.format(reader="read_xml"), ".csv"),
    _Format((".arff",), (b"@relation",), "an ARFF file",
            "import pandas, scipy.io.arff; pandas.DataFrame(scipy.io.arff.loadarff({name!r})[0])"
            ".to_csv({new!r}, index=False)", ".csv"),
    _Format((".jpg", ".jpeg", ".png", ".webp", ".bmp"),
            (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF89a"), "a photograph",
            "python embed.py --images {name} --output {new}"),
)  # fmt: skip


def refuse_unsupported(path: str) -> None:
    """Raise InputError, with code to export it, for a file or folder of one of FORMATS."""
    start = b""
    if Path(path).is_file():
        with open(path, "rb") as stream:
            start = stream.read(32)
    lowered = path.rstrip("/").lower()
    for known in FORMATS:
        if lowered.endswith(known.suffixes) or (known.magics and start.startswith(known.magics)):
            raise InputError(_message(path, known))


def refuse_folder(path: str) -> None:
    """Raise InputError for a folder that is a table of LanceDB, or holds such tables."""
    tables = [path] if path.rstrip("/").endswith(".lance") else sorted(Path(path).glob("*.lance"))
    for table in tables[:1]:
        refuse_unsupported(str(table))


def _message(path: str, known: _Format) -> str:
    """Return the message that refuses a file, with code that exports it."""
    name = Path(path).name
    stem = name.partition(".")[0]
    packed = "'GZIP'" if name.lower().endswith(".gz") else "''"
    export = known.export.format(name=name, new=stem + known.new_suffix, stem=stem, packed=packed)
    trust = "if you trust it, " * ("never opened" in known.name)
    columns = " (put in your column names)" * ("[" in known.export)
    convert = f"{trust}convert it to {known.new_suffix[1:].upper()}{columns}: {export}"
    return f"{path}: {known.name}; this format cannot be read; {convert}"
