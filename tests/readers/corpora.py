"""Small corpora for the fuzzing of the readers to begin with, and its start."""

import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

TEXTS = {
    "csv": [
        b"a.jpg,1,-0.5,3e-2\nb.jpg,4,5,6\n",
        b"filename,e1,e2,e3\r\na,1,2,3\r\n\r\nb,4,5,6",
        b"0,1,2\n.1,+.2,3.e5\n1e-40, 1 ,0\n",
        b"\xef\xbb\xbf,0,1,2\n0,0.1,0.2,0.3\n",
        b'"a,b ""c""\r\nd",1,2,3\n"e",4,5,6\nf,"7",8,9\n',
        b'"a",1,2,3\n"b,4,5,6\n"c",7,8,9\n',
        b"a,1,2\na,1,2,3,4\na,nan,2,3\na,0,0,0\na,1e300,2,3\na,,2,3\n",
        b"a\0,1,2,3\nb\r,1,2,3\n\xff,1,2,3\nTrue,True,1,0\n",
        b"a;1;2;3\n1\t2\t3\n",
        b"name,1,2,3\n" + b"\n" * 70 + b"b,1,2,3",
        b"sep=;\nname;e1;e2;e3\na;1;2;3\nb;4;5\n",
        b"a|1|2|3|\nb|4|5|6|\n",
        b"# by hand\n# name e1 e2 e3\na 1 2 3\nb 4 5 6\n",
        b"2 3\na 1 2 3\nb 4 5 6\n",
        b"Faces\n\nname,e1,e2,e3\na,1,2,3\nb,4,5,6\n",
        b"e1\te2\te3\na\t1\t2\t3\nb\t4\t5\t6\n",
        b"7,a,1,2,3\n8,b,4,5,6\n",
        b"1,2,3,a,x\n4,5,6,b,x\n",
        b'"name","e1","e2","e3"\n"a","1,5","2,5","3,5"\n',
        b",e,e,e\n,0,1,2\na,1,2,3\n",
    ],
    "lists": [
        b'path,embedding\na.jpg,"[1, -0.5, 3e-2]"\n"b,""c",[4,5,6]\n',
        b'e,id,x\n"[1,2,3]",7,"{""a"": [1]}"\n"[4, 5, 6]",8,\n"[1,2]",9,"y\nz"\n',
        b'name,e,gender\na,"[1. 2. 3.]",0\nb,"[1 ... 3]",1\nc,"[np.float32(1.0), -0, 3]",m\n',
        b'a,"[1,2,3]"\nb,"[1,x,3]"\nc,"[[1],2,3]"\n"[7,8,9]",d\n"e","[1,2,3"\n',
        b"e0,e2,e1,age\n1,2,3,4\n,0,1,2\n.5,+1,1_0,\n",
        b'p,e\na,"array([1, 2, 3], dtype=float32)"\nb,"tensor([4., 5., 6.], grad_fn=<X>)"\n',
        b"p\te\na\t{1,2,3}\nb\t(4,5,6)\nc\t[4,5,6]\n",
        b"p,e\na,[1, 2, 3]\nb,{4,5,6},x\n[7,8,9],c\n",
        b"a: [1, 2, 3]\nb: [4, 5, 6]\nc = (7,8,9)\n",
        b"p,e\na,\"[{'embedding': [1, 2, 3], 'facial_area': {'x': 1}}]\"\n",
        b"p\te\na\t1;2,5;3\nb\t4|5|6\nc\t['7', '8', '9']\n",
        b'p,e\na,"{""0"": 1, ""1"": 2, ""2"": 3}"\nb,b\'AACAPwAAAEAAAEBA\'\n',
        b"p;e\na;[[1, 2, 3]]\nb;AACAPwAAAEAAAEBA\nc;\\x0000803f0000004000004040\n",
    ],
    "jsonl": [
        b'{"path": "a.jpg", "embedding": [1, -0.5, 3e-2]}\n{"path":"b","embedding":[4,5,6]}\n',
        b'{"embedding": [-0, 0.0, 1e-400], "id": 7, "x": {"y": [1]}}\r\n\n{"embedding":[1,2]}',
        b'{"e": [1, null, 3]}\n{"e": [1, "x", 3]}\n{"e": [1, [2], 3]}\n{"e": [1, 1e400, NaN]}\n',
        b'{"a": 1, "a": 2, "e": [1, 2, 3]}\n{"\\u0065": [1, 2, 3]}\n[1, 2, 3]\nnull',
        b'{"e": "[1,2,3]"}\n{"e": [1.0, 2.5, 3e38]}',
        b'[{"n": "]}", "e": [1, 2, 3]}, {"n": "\\"[", "e": [4, 5, 6]}]',
        b'{"rows": [{"n": "a", "e": [1, 2, 3]}, {"n": "b", "e": [4, 5, 6]}], "next": null}',
        b'{"ids": ["a", "b"], "embeddings": [[1, 2, 3], [4, 5, 6]]}',
        b'{"a": [1, 2, 3], "b": [4, 5, 6]}',
        b'{"a": {"x": [1, 2, 3], "y": [4, 5, 6]}, "b": {"z": [7, 8, 9]}}',
        b'{"_id": {"$oid": "07"}, "e": [{"$numberDouble": "1"}, {"N": "2"}, {"doubleValue": 3.0}]}',
        b'{"Item": {"id": {"S": "a"}, "e": {"L": [{"N": "1"}, {"N": "2"}, {"N": "3"}]}}}\n',
        b'{"index": {"_id": "1"}}\n{"e": [1, 2, 3]}\n{"create": {}}\n{"e": [4, 5, 6]}\n',
        b'["a", [1, 2, 3]]\n["b", [4, 5, 6]]\n',
        b'{"path": "a", "e": [1, 2, 3]},\n{"path": "b", "e": [4, 5, 6]},\n',
        b"{'path': 'a', 'e': [1, 2, 3]}\n[ 1. 2. 3.]\n",
        b'[{"label": "a", "descriptors": [[1, 2, 3], [4, 5, 6]]}]',
        b'[\n {\n "e": [\n1,\n2,\n3]\n},null,{"e0":1,"e1":2,"e2":3}]\n',
    ],
}
# What the first byte means: fuzz_readers.check_sqlite
SQLITE = [
    b"\x00" + np.arange(1, 7, dtype="<f4").tobytes(),
    b"\x01" + np.arange(1, 7, dtype="<f8").tobytes(),
    b"\x02[1, 2, 3]\n[4,5,-0]\n[1,x,3]\n[1,2]\n[[1],2,3]\n",
    b"\x03",
]


def npz_files(width: int) -> list[bytes]:
    """Return arrays of several types and orders, as `fuzz_readers.check_npz` takes them."""
    files = [b"\x02PK"]
    for dtype in ("<f4", ">f8", "<f2", "<i4"):
        for order in "CF":
            arrays = []
            for array in (np.array(["a", "b"]), np.ones((2, width), dtype, order)):
                stream = io.BytesIO()
                np.save(stream, array)
                arrays.append(stream.getvalue())
            files += [bytes([how, len(arrays[0])]) + b"".join(arrays) for how in (0, 1)]
    return files


def fuzz(target: Callable[[bytes], None], seeds: list[bytes]) -> None:
    """Fuzz a function with atheris from these seeds, until libFuzzer's options end it."""
    import atheris

    folder = tempfile.mkdtemp(prefix="seeds-")
    for number, seed in enumerate(seeds):
        Path(folder, str(number)).write_bytes(seed)
    atheris.Setup([*sys.argv, folder], target)
    atheris.Fuzz()
