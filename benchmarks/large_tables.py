"""Write large tables of UTKFace's embeddings, over and over, as other tools write them."""

import sqlite3
from pathlib import Path

from age_gender import paths
from age_gender.readers import tables, writing


def write_csv(path: Path, rows: int) -> Path:
    """Write a CSV of UTKFace's faces, over and over, with names; return its path."""
    names, features = tables.read([paths.EMBEDDINGS])
    text = [
        ",".join(map("%.8g".__mod__, row)) + "\n" for row in features[: min(rows, 5000)].tolist()
    ]
    with open(path, "w") as stream:
        for number in range(rows):
            stream.write(f"{number}_{names[number % len(names)]},{text[number % len(text)]}")
    return path


def write_table(path: Path, names: list[str], features) -> Path:
    """Write rows as JSON lines, Parquet of lists, or SQLite, as other tools do; return the path."""
    file_format = path.name.partition(".")[2]
    if file_format == "csv":
        return write_csv(path, len(names))
    if file_format == "jsonl":
        text = [",".join(map("%.8g".__mod__, row)) for row in features[:5000].tolist()]
        with open(path, "w") as stream:
            for i, name in enumerate(names):
                stream.write(f'{{"filename":"{name}","embedding":[{text[i % len(text)]}]}}\n')
    elif file_format == "fixed.parquet":
        writing.write(path, names, [features])
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
            rows = ((name, row.tobytes()) for name, row in zip(names, features, strict=True))
            connection.executemany("insert into faces values (?, ?)", rows)
        connection.close()
    return path
