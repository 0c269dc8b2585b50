"""Files that are made to break a reader: run as a script, it reads them all and tells what that took.

Each is read as a user would: what comes out is an embedding or a message, whatever the file asks for.
"""

import base64
import contextlib
import copy
import io
import json
import math
import os
import pickle
import pickletools
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import safetensors.torch
import torch

from coinage.embeddings.pairs import open_embedding
from coinage.errors import EmbeddingFileError
from tests.data.fuzzing import mutated_bytes, mutated_tree
from tests.embeddings.files import (
    Evil,
    drawn,
    hidden,
    parameter_dict,
    picture_of,
    plain,
    png,
    vectors,
    webui,
)

MEGABYTE = 2**20


def outcome(path: Path) -> str:
    """What reading gives: "found" or the message. Anything else that is raised comes through."""
    problem, found = None, None
    try:
        found = open_embedding(path)
    except EmbeddingFileError as error:
        (problem,) = error.problems
    if found is None or problem:
        assert problem
        assert problem.what
        assert problem.where == str(path)
        assert len(str(problem)) < 2000
        assert "\n" not in problem.what + problem.hint
        return problem.what
    for rows in found.word.vectors.values():
        assert rows.dtype == torch.float32
        assert rows.ndim == 2
        assert torch.isfinite(rows.sum(dtype=torch.float64))
    return "found"


# Containers


def saved(content: object, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, **options)
    return out.getvalue()


def torch_zip(program: bytes, compression: int = zipfile.ZIP_STORED, **records: bytes) -> bytes:
    """A zip of torch with this pickle and these storages, by name `d0`, `d1`, ..."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as target:
        target.writestr("archive/data.pkl", program)
        target.writestr("archive/version", b"3\n")
        for name, data in records.items():
            target.writestr(f"archive/data/{name[1:]}", data)
    return out.getvalue()


def with_header(header: bytes, body: bytes = b"", size: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header + body


def safetensors_file(content: dict[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """Zeros of these types and shapes."""
    header, end = {}, 0
    for name, (dtype, shape) in content.items():
        start, end = end, end + math.prod(shape) * int(dtype[1:]) // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    return with_header(json.dumps(header).encode(), bytes(end))


def with_text(text: bytes, kind: bytes = b"tEXt", flags: bytes = b"") -> bytes:
    return png((kind, b"sd-ti-embedding\0" + flags + text))


def with_json(text: str) -> bytes:
    return with_text(base64.b64encode(text.encode()))


# Pickle programs

STORAGE = b"X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
TEXT_0 = b"X\x01\x00\x00\x000"
CPU = b"X\x03\x00\x00\x00cpu"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
HOOKS = b"ccollections\nOrderedDict\n)R"
ORDERED = b"ccollections\nOrderedDict\n"


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word.encode())) + word.encode()


def number(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def storage(numel: int, name: bytes = TEXT_0, kind: str = "Float") -> bytes:
    return (
        b"(" + STORAGE.replace(b"FloatS", f"{kind}S".encode()) + name + CPU + number(numel) + b"tQ"
    )


def tensor(
    numel: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, data: bytes = b""
) -> bytes:
    shape, steps = (b"(" + b"".join(map(number, values)) + b"t" for values in (size, stride))
    return (
        REBUILD
        + b"("
        + (data or storage(numel))
        + number(offset)
        + shape
        + steps
        + b"\x89"
        + HOOKS
        + b"tR"
    )


def program(body: bytes, key: bytes = text("emb_params")) -> bytes:
    return b"\x80\x02}" + key + body + b"s."


def folded(levels: int) -> bytes:
    """A tuple of two tuples of two tuples ...: small, but 2**levels long when it is hashed or shown."""
    return b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(levels))


# fmt: off
FRAGMENTS = (
    b"\x80\x02", b"\x80\x04", b".", b"(", b"t", b"\x85", b"\x86", b"\x87", b")", b"]", b"}", b"a",
    b"e", b"s", b"u", b"N", b"\x88",
    b"q\0", b"q\1", b"h\0", b"h\1", b"r\xff\xff\xff\xff", b"j\xff\xff\xff\xff", b"K\0", b"K\7",
    b"M\xff\xff", b"J\xff\xff\xff\xff",
    b"\x8a\0", b"\x8a\xff" + b"\xff" * 255, b"\x8b\xff\xff\xff\x7f", b"G\x7f\xf8\0\0\0\0\0\0", b"R",
    b"R", b"b", b"b", b"\x81", b"Q", b"Q",
    b"0", b"2", b"1", b"I5\n", b"L99L\n", b"Vabc\n", b"P7\n", b"\x82\1", b"\x8e" + b"\xff" * 8,
    b"\x95" + b"\xff" * 8, b"\x8f",
    b"B\xff\xff\xff\xff", b"X\xff\xff\xff\xff", b"U\2ab", b"X\3\0\0\0\xed\xa0\x80", text("*"),
    text("emb_params"), text("string_to_param"),
    text("clip_l"), text("clip_g"), text("_parameters"), text("\n"), STORAGE, TEXT_0, CPU, REBUILD,
    HOOKS, ORDERED,
    storage(8), storage(-1), storage(2**62), storage(8, b"N"), storage(8, kind="Long"),
    storage(4, kind="Double"),
    tensor(8, (1, 8), (8, 1)), tensor(8, (2, 4), (4, 1)), tensor(8, (10**9, 8), (0, 1)),
    tensor(8, (2, -4), (4, 1)),
    tensor(8, (8,), (1,), 3), tensor(8, (), ()), tensor(8, (1,) * 9, (1,) * 9),
    b"ctorch.nn.modules.container\nParameterDict\n", b"ctorch.nn.modules.container\nParameterDict\n)\x81",
    b"ctorch._utils\n_rebuild_parameter\n", b"c__builtin__\nset\n", b"c__builtin__\nset\n]\x85R",
    b"cbuiltins\nbytearray\n",
    b"cposix\nsystem\n", b"c\n\n", b"ctorch\nSize\n", b"ctorch\nTensor\n",
)
# fmt: on


def opcodes_mixed(data: bytes, rng: Random) -> bytes:
    """A pickle with some opcodes left out, doubled, put elsewhere, or made up."""
    places = [at for _, _, at in pickletools.genops(data)] + [len(data)]
    parts = [data[a:b] for a, b in pairwise(places)]
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(parts) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            del parts[at : at + rng.choice((1, 1, 3, 10))]
        elif kind == 1:
            parts[at:at] = parts[at : at + rng.choice((1, 5))] * rng.choice((1, 1, 50))
        elif kind == 2:
            parts.insert(at, rng.choice(parts or [b"N"]))
        else:
            parts.insert(at, rng.choice(FRAGMENTS))
    return b"".join(parts)


# Random files


def seeds() -> dict[str, bytes]:
    """Good files of each container and layout, so small that a change mostly hits their structure."""
    rows = vectors(2, 8)
    pair = {"clip_l": rows.clone(), "clip_g": vectors(2, 12)}
    original = {
        "string_to_token": {"*": torch.tensor(265)},
        "string_to_param": parameter_dict(rows),
    }
    return {
        "E": safetensors.torch.save(
            {"emb_params": rows}, {"format": "pt", "ti.token_string": "zibu"}
        ),
        "X": safetensors.torch.save(pair),
        "B": safetensors.torch.save(
            {f"bundle_emb.zibu.{key}": half for key, half in pair.items()}
            | {"lora_unet_a.alpha": torch.ones(1)}
        ),
        "half": safetensors.torch.save({"emb_params": rows.half()}),
        "A": saved(webui(rows)),
        "O": saved(original),
        "Xpt": saved(pair),
        "L": saved([{"a": rows}, {"b": vectors(1, 8)}]),
        "legacy": saved(webui(rows), _use_new_zipfile_serialization=False),
        "legacy O": saved(original, _use_new_zipfile_serialization=False),
        "G": with_text(hidden(rows)),
        "zTXt": with_text(zlib.compress(hidden(rows)), b"zTXt", b"\0"),
        "iTXt": with_text(zlib.compress(hidden(rows)), b"iTXt", b"\1\0\0\0"),
        "pixels": drawn(picture_of(plain(rows), 16)),
        "pixels, WebP": drawn(picture_of(plain(rows), 16), "webp", lossless=True),
    }


SEEDS = seeds()


def pickle_of(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))


def random_file(rng: Random) -> bytes:
    """A file that is broken in one of many ways, some of which do no harm."""
    kind, data = rng.choice(list(SEEDS.items()))
    way = rng.randrange(10)
    if way < 2:
        return data[: rng.randrange(len(data) + 1)]
    if way < 5:
        return mutated_bytes(data, rng, head=400)
    if kind in ("A", "O", "Xpt", "L"):
        broken = (
            opcodes_mixed(pickle_of(data), rng) if way < 9 else mutated_bytes(pickle_of(data), rng)
        )
        return torch_zip(broken, d0=vectors(2, 8).numpy().tobytes(), d1=b"\0" * 8)
    if kind in ("E", "X", "B", "half"):
        size = struct.unpack("<Q", data[:8])[0]
        tree = mutated_tree(json.loads(data[8 : 8 + size]), rng)
        with contextlib.suppress(ValueError):  # a number too long to write
            return with_header(json.dumps(tree).encode("utf-8", "replace"), data[8 + size :])
    if kind == "G":
        good = json.loads(base64.b64decode(hidden(vectors(2, 8))))
        tree = mutated_tree({name: value for name, value in good.items() if value is not None}, rng)
        with contextlib.suppress(ValueError):
            return with_text(base64.b64encode(json.dumps(tree).encode("utf-8", "replace")))
    return mutated_bytes(data, rng)


def random_program(rng: Random) -> bytes:
    """A zip of torch with a pickle of opcodes put together at random."""
    body = b"".join(rng.choices(FRAGMENTS, k=rng.randrange(1, 25)))
    return torch_zip(
        rng.choice((b"\x80\x02", b"")) + body + b".", d0=vectors(1, 8).numpy().tobytes()
    )


# Bombs


def many_records() -> bytes:
    """A zip with the directory of a million records."""
    small = torch_zip(program(b"N"))
    start = small.index(b"PK\1\2")
    entry = small[start : small.index(b"PK\1\2", start + 4)]
    directory = entry * 1_000_000
    return (
        small[:start]
        + directory
        + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, len(directory), start, 0)
    )


def one_record_many_names() -> bytes:
    """A zip whose records all lie in the same place."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        keys = b"".join(
            text(f"k{i}") + tensor(MEGABYTE, (1, 8), (8, 1), 0, storage(MEGABYTE, text(f"{i}")))
            for i in range(1000)
        )
        target.writestr("archive/data.pkl", b"\x80\x02}(" + keys + b"u.")
        target.writestr("archive/version", b"3\n")
        target.writestr("archive/data/0", bytes(4 * MEGABYTE))
        for i in range(1, 1000):
            info = copy.copy(target.getinfo("archive/data/0"))
            info.filename = info.orig_filename = f"archive/data/{i}"
            target.filelist.append(info)
            target.NameToInfo[info.filename] = info
    return out.getvalue()


def legacy(body: bytes, keys: bytes = b"", data: bytes = b"") -> bytes:
    head = saved({}, _use_new_zipfile_serialization=False)
    return head[: head.rindex(b"\x80\x02}")] + program(body) + b"\x80\x02](" + keys + b"e." + data


def deep(opening: str, closing: str, count: int = 500_000) -> str:
    return opening * count + closing * count


FOUR_BYTES = {"d0": b"\0" * 4}
LARGE = 240 * MEGABYTE // 4  # numbers
STATE = b"(" + b"".join(text(f"{i:04}") + b"N" for i in range(9999)) + b"u"


def large_picture(width: int, height: int, rows: int | None = None) -> bytes:
    """A PNG of one colour, but for a black column before the first pixel and one after the last."""
    line = b"\0" + b"\x11" * 3 + bytes(3) + b"\x11" * (3 * width - 12) + bytes(3) + b"\x11" * 3
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(line * (rows or height), 1)),
    ]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    return (
        b"\x89PNG\r\n\x1a\n"
        + b"".join(chunks)
        + struct.pack(">I", 0)
        + b"IEND"
        + struct.pack(">I", zlib.crc32(b"IEND"))
    )


def small_bombs() -> dict[str, bytes]:
    """Files of at most a few megabytes that ask for a lot."""
    one = tensor(1, (1, 1), (1, 1))
    programs = {
        "bytearray": b"cbuiltins\nbytearray\n" + number(10**10) + b"\x85R",
        "untyped storage": b"ctorch.storage\nUntypedStorage\n" + number(10**10) + b"\x85R",
        "tensor class": b"ctorch\nFloatTensor\n" + number(10**10) + b"\x85R",
        "shape beyond the data": tensor(1, (10**6, 768), (768, 1)),
        "two rows on one number": tensor(1, (2, 768), (768, 1)),
        "shape beyond 64 bits": tensor(1, (2**40, 2**40), (0, 0)),
        "a million rows on one": tensor(1, (10**6, 768), (0, 0)),
        "ten thousand rows on one": tensor(1, (10_000, 1280), (0, 0)),
        "stride below nothing": tensor(1, (1, 8), (8, -1), 7),
        "offset below nothing": tensor(1, (1, 1), (1, 1), -1),
        "storage of a terabyte": tensor(2**38, (1, 1), (1, 1)),
        "storage below nothing": tensor(-1, (1, 1), (1, 1)),
        "two storages of one name": b"(" + one + tensor(1, (1, 1), (1, 1), 0, storage(1, kind="Int")) + b"t",
        "long memo index": b"Nr\xff\xff\xff\x7f",
        "long text": b"X\xff\xff\xff\xff",
        "long bytes": b"\x8e\xff\xff\xff\xff\xff\xff\xff\x0f",
        "long number": b"\x8b\xff\xff\xff\x7f",
        "long frame": b"\x95\xff\xff\xff\xff\xff\xff\xff\x0fN",
        "number in digits": b"I" + b"9" * 240_000 + b"\n",
        "folded tuple as value": folded(200),
        "folded tuple as key": b"}" + folded(60) + b"Ns",
        "folded tuple as name": storage(1, folded(60)),
        "folded tuple as storage": folded(60) + b"Q",
        "folded tuple in a set": b"c__builtin__\nset\n]" + folded(60) + b"a\x85R",
        "folded tuple as arguments": REBUILD + folded(60) + b"R",
        "folded tuple as shape": REBUILD
        + b"("
        + storage(1)
        + b"K\0"
        + folded(60) * 2
        + b"\x89"
        + HOOKS
        + b"tR",
        "deep tuple as key": b"})" + b"\x85" * 240_000 + b"Ns",
        "deep tuple": b")" + b"\x85" * 240_000,
        "deep list": b"]" * 125_000 + b"a" * 124_999,
        "list in itself": b"]q\0h\0a",
        "dictionary in itself": b"}q\0" + text("a") + b"h\0s",
        "dictionaries": b"(" + b"}" * 250_000 + b"t",
        "ordered dictionaries": b"(" + ORDERED + b"q\0" + b"h\0)R" * 62_000 + b"t",
        "sets": b"(" + b"c__builtin__\nset\nq\0" + b"h\0]\x85R" * 43_000 + b"t",
        "marks": b"(" * 250_000,
        "dictionary of numbers": b"}("
        + b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(60_000))
        + b"u",
        "state copied again and again": b"}q\0" + STATE + b"(" + (HOOKS + b"h\0b") * 5_000 + b"t",
        "dictionary copied again and again": b"}q\0" + STATE + b"(" + (ORDERED + b"h\0\x85R") * 5_000 + b"t",
        "state of many": b"ctorch.nn.modules.container\nParameterDict\n)\x81}" + STATE + b"b",
        "parameters of a parameter": b"ctorch._utils\n_rebuild_parameter\n" + one + folded(60) + b"\x86R",
    }  # fmt: skip
    files = {name: torch_zip(program(body), **FOUR_BYTES) for name, body in programs.items()}
    rows = b"}" + text("a") + tensor(1, (10_000, 1280), (0, 0)) + b"sq\0"
    terabyte = tensor(2**38, (1, 1), (1, 1), 0, storage(2**38).replace(b"tQ", b"NtQ"))
    beyond = tensor(1, (2, 768), (768, 1), 0, storage(1).replace(b"tQ", b"NtQ"))
    packed = zlib.compress(bytes(400 * MEGABYTE))
    shape = b'"dtype":"F32","shape"'
    files |= {
        "ten thousand rows, many times": torch_zip(
            b"\x80\x02](" + rows + b"h\0" * 120_000 + b"e.", **FOUR_BYTES
        ),
        "ten thousand rows, twice": torch_zip(b"\x80\x02](" + rows + b"h\0e.", **FOUR_BYTES),
        "system": torch_zip(program(b"cposix\nsystem\n" + text("touch owned") + b"\x85R")),
        "system, legacy": legacy(b"cposix\nsystem\n" + text("touch owned") + b"\x85R"),
        "system, no torch": b"\x80\x02cposix\nsystem\n" + text("touch owned") + b"\x85R.",
        "system, protocol 4": pickle.dumps(Evil(Path("owned")), protocol=4),
        "system by an instance": torch_zip(b"(" + text("touch owned") + b"iposix\nsystem\n."),
        "system by an attribute": torch_zip(
            program(b"cbuiltins\ngetattr\ncos\npath\n" + text("os") + b"\x86R")
        ),
        "extension code": torch_zip(program(b"\x84\1\0\0\0")),
        "large pickle": torch_zip(program(b"N" * 2_000_000)),
        "large pickle, legacy": legacy(b"N" * 2_000_000),
        "two rows on one number, legacy": legacy(beyond, TEXT_0, struct.pack("<Qf", 1, 0)),
        "terabyte, legacy": legacy(terabyte, TEXT_0, struct.pack("<Qf", 2**38, 0)),
        "tar": b"\x80" + bytes(100_000),
        "large picture": large_picture(2**12, 2**11 - 1),
        "picture of a billion": large_picture(2**15, 2**15, rows=100),
        "picture of more than it has": large_picture(2**12, 2**11 - 1, rows=100),
        "large WebP": drawn(
            np.full((2**11 - 1, 2**12, 3), 17, np.uint8), "webp", lossless=True, method=0, quality=0
        ),
        "deflated": torch_zip(program(one), zipfile.ZIP_DEFLATED, d0=bytes(100 * MEGABYTE)),
        "bzip2": torch_zip(program(one), zipfile.ZIP_BZIP2, d0=bytes(MEGABYTE)),
        "one record, many names": one_record_many_names(),
        "many records": many_records(),
        "no records": b"PK\5\6" + bytes(18),
        "deep header": with_header(deep('{"a":', "}").encode()),
        "deep header list": with_header(b'{"a":' + deep("[", "]").encode() + b"}"),
        "header of tensors": with_header(b"{" + b",".join(b'"%d":{%s:[0,1],"data_offsets":[0,0]}' % (i, shape)
            for i in range(70_000)) + b"}"),
        "header of numbers": with_header(
            b'{"a":{"dtype":"F32","shape":[' + b"0," * 2_000_000 + b'0],"data_offsets":[0,0]}}'
        ),
        "header of metadata": with_header(
            b'{"__metadata__":{' + b",".join(b'"%d":""' % i for i in range(300_000)) + b"}}"
        ),
        "shape beyond 64 bits, safetensors": with_header(
            b'{"a":{%s:[%d,4],"data_offsets":[0,4]}}' % (shape, 2**63 - 1), b"\0" * 4
        ),
        "ten thousand rows, safetensors": with_header(
            b'{"a":{"dtype":"F32","shape":[100000000,0],"data_offsets":[0,0]}}'
        ),
        "header longer than anything": with_header(b"{}", size=2**64 - 1),
        "packed text": with_text(packed, b"zTXt", b"\0"),
        "packed text, international": with_text(packed, b"iTXt", b"\1\0\0\0"),
        "deep text": with_json(deep("[", "]")),
        "deep dictionaries": with_json(deep('{"a":', "}", 300_000)),
        "deep tensor": with_json('{"string_to_param":{"*":{"TORCHTENSOR":' + deep("[", "]", 900) + "}}}"),
        "text of lists": with_json("[" + "[]," * 950_000 + "[]]"),
        "text of dictionaries": with_json("[" + "{}," * 950_000 + "{}]"),
        "tensor of lists": with_json('{"TORCHTENSOR":[' + "[]," * 900_000 + "[]]}"),
        "tensor of numbers": with_json(
            '{"string_to_param":{"*":{"TORCHTENSOR":[' + "1e9," * 700_000 + "0]}}}"
        ),
        "tensor of words": with_json('{"string_to_param":{"*":{"TORCHTENSOR":["a","b"]}}}'),
        "tensor of infinity": with_json('{"string_to_param":{"*":{"TORCHTENSOR":[[1e999,NaN]]}}}'),
        "tensor of digits": with_json('{"string_to_param":{"*":{"TORCHTENSOR":[[' + "9" * 4000 + "]]}}}"),
        "digits": with_json("9" * 100_000),
        "wrong alphabet": with_text(b"\xff{}"),
        "text that says it is long": with_text(b"")[:33]
        + struct.pack(">I", 2**31)
        + b"tEXtsd-ti-embedding\0",
        "no JSON": with_json("zibu"),
        "JSON of another kind": with_json('[1, "two", null]'),
    }  # fmt: skip
    return files


def large_bombs() -> Iterator[tuple[str, bytes]]:
    """Files near the limit of size, one at a time."""
    slices = (
        b"\x80\x02}("
        + b"".join(text(f"{i}") + tensor(LARGE, (1, 8), (8, 1), i) for i in range(100))
        + b"u."
    )
    yield "slices of a large table", torch_zip(slices, d0=bytes(4 * LARGE))
    yield (
        "slice of a large table",
        torch_zip(program(tensor(LARGE, (2, 768), (768, 1))), d0=bytes(4 * LARGE)),
    )
    yield (
        "large table",
        torch_zip(program(tensor(LARGE, (49_152, 1280), (1280, 1))), d0=bytes(4 * LARGE)),
    )
    most = 10_000 * 1280
    double = storage(most, kind="Double")
    yield (
        "the most numbers, doubled",
        torch_zip(program(tensor(most, (10_000, 1280), (1280, 1), 0, double)), d0=bytes(8 * most)),
    )
    for name, numel in (("slice, legacy", LARGE // 2), ("slice of more, legacy", LARGE)):
        old = tensor(1, (2, 768), (768, 1), 0, storage(numel).replace(b"tQ", b"NtQ"))
        yield name, legacy(old, TEXT_0, struct.pack("<Q", numel) + bytes(4 * numel))
    yield (
        "large table, safetensors",
        safetensors_file({"emb_params": ("F32", (LARGE // 1280, 1280))}),
    )
    yield (
        "large LoRA",
        safetensors_file({f"lora_unet_{i}.alpha": ("F32", (LARGE // 60,)) for i in range(60)}),
    )
    yield (
        "the most numbers of a pair",
        safetensors_file({"clip_g": ("F64", (10_000, 1280)), "clip_l": ("F64", (10_000, 768))}),
    )
    yield "large header", with_header(b"{" + b" " * (250 * MEGABYTE) + b"}")
    yield "large text", with_text(b"A" * (200 * MEGABYTE))
    yield "many chunks", png()[:33] + (struct.pack(">I", 0) + b"abcd" + bytes(4)) * 15_000_000
    yield "nothing but zeros", bytes(250 * MEGABYTE)
    yield "zip of zeros", b"PK\3\4" + bytes(250 * MEGABYTE)
    yield "pickle of zeros", b"\x80" + bytes(250 * MEGABYTE)


def write_sparse(path: Path, data: bytes) -> None:
    """Write a file; its zeros take no room on the disk."""
    with path.open("wb") as stream:
        for at in range(0, len(data), MEGABYTE):
            block = data[at : at + MEGABYTE]
            if block.count(0) < len(block):
                stream.seek(at)
                stream.write(block)
        stream.truncate(len(data))


def peak() -> float:
    """The most memory that this process has had, in MB; `getrusage` may give its parent's instead."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def read_all(folder: Path, cases: range) -> dict[str, Any]:
    """Read the random files of `cases`, then every bomb in the folder; print results, seconds, megabytes."""
    results = {"nothing": ("", 0.0, peak())}
    os.chdir(folder)  # what a file gets to run, it would run here

    def tell(path: Path, name: str) -> None:
        start = time.process_time()
        try:
            what = outcome(path)
        except BaseException as error:  # noqa: BLE001 - told to the one who asked
            what = f"RAISED {type(error).__name__}: {error}"[:500]
        results[name] = what, time.process_time() - start, peak()

    for case in cases:
        rng = Random(case)  # noqa: S311 - not for secrets
        Path("file").write_bytes((random_file if rng.random() < 0.8 else random_program)(rng))
        tell(Path("file"), f"random {case}")
    for path in sorted(Path().glob("*.bomb")):
        tell(path, path.stem)
    return results


if __name__ == "__main__":
    print(json.dumps(read_all(Path(sys.argv[1]), range(*map(int, sys.argv[2:4])))))  # noqa: T201
