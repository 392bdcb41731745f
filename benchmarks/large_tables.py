"""Write large tables of UTKFace's faces, over and over, as other tools write them."""

import sqlite3
from pathlib import Path

import numpy as np

from age_gender import paths, table_writing
from age_gender.readers import tables

TEXT_ROWS = 5000  # different rows of a text table: to format more takes long


def write_faces(path: Path, rows: int) -> Path:
    """Write a table of so many faces with names, in the format of its suffixes; return its path.

    NPY has no names; .double.parquet has lists of any length of doubles.
    """
    names, features = tables.read([paths.EMBEDDINGS])
    repeats = rows // len(names) + 1
    names = [f"{i}_{name}" for i, name in enumerate((names * repeats)[:rows])]
    features = np.tile(features, (repeats, 1))[:rows]

    file_format = path.name.partition(".")[2]
    if file_format in ("csv", "jsonl"):
        row = "{},{}\n" if file_format == "csv" else '{{"filename":"{}","embedding":[{}]}}\n'
        text = [",".join(map("%.8g".__mod__, face)) for face in features[:TEXT_ROWS].tolist()]
        with open(path, "w") as stream:
            stream.writelines(row.format(name, text[i % TEXT_ROWS]) for i, name in enumerate(names))
    elif file_format == "npy":
        np.save(path, features)
    elif file_format in ("npz", "parquet"):
        table_writing.write(path, names, [features])
    elif file_format == "double.parquet":
        import pyarrow as pa
        import pyarrow.parquet

        ends = pa.array(range(0, features.size + 1, features.shape[1]), pa.int32())
        values = pa.ListArray.from_arrays(ends, pa.array(features.astype(float).ravel()))
        columns = pa.table({"filename": names, "embedding": values})
        pa.parquet.write_table(columns, path, row_group_size=20_000)
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("create table faces (path text, embedding blob)")
            faces = ((name, row.tobytes()) for name, row in zip(names, features, strict=True))
            connection.executemany("insert into faces values (?, ?)", faces)
        connection.close()
    return path
