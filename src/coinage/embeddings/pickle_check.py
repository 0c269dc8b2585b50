"""What a pickle would build, told from its opcodes: nothing is called, imported or allocated.

`torch.load(weights_only=True)` runs no code of a file, but lets it ask for any amount of memory or time: a
tensor of a million rows on four bytes, `bytearray(10**10)`, a key that is a tuple of tuples of tuples. So a
file is followed here first, opcode by opcode, and only what embeddings are made of may come to pass: numbers,
strings, lists, dictionaries with plain keys, and tensors that lie inside of their own data.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from coinage.errors import EmbeddingFileError

MOST_BYTES = 2**18  # of a pickle: an embedding's has a few hundred
PARAMETER_DICT = "torch.nn.modules.container ParameterDict"
ORDERED_DICT = "collections OrderedDict"
REBUILD_TENSOR = "torch._utils _rebuild_tensor_v2"
REBUILD_PARAMETER = "torch._utils _rebuild_parameter"
SETS = ("__builtin__ set", "builtins set")
ITEM_BYTES = {
    f"torch {name}Storage": size
    for size, names in {
        1: "Byte Char Bool",
        2: "Half BFloat16 Short",
        4: "Float Int",
        8: "Double Long ComplexFloat",
        16: "ComplexDouble",
    }.items()
    for name in names.split()
}
KNOWN = {PARAMETER_DICT, ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER, *SETS, *ITEM_BYTES}
UNFIT = {  # what torch would build, and no embedding is made of
    "torch._utils _rebuild_qtensor": "quantised numbers",
    "torch._utils _rebuild_tensor_v3": "numbers of an unusual type, such as float8",
    "torch._utils _rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils _rebuild_meta_tensor_no_storage": "a tensor without data",
    "numpy.core.multiarray scalar": "numpy numbers",
    "numpy._core.multiarray scalar": "numpy numbers",
    **{
        f"torch {name}Storage": "quantised numbers"
        for name in ("QInt8", "QUInt8", "QInt32", "QUInt4x2", "QUInt2x4")
    },
}
RESAVE = "open it in the program that wrote it, and save it as .safetensors"
LITERALS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE")
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


@dataclass(frozen=True, slots=True)
class Storage:
    """Data that the pickle refers to.

    Attributes:
        kind: torch's name of its type.
        numel: how many numbers it holds.
    """

    kind: str
    numel: int

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self.numel * ITEM_BYTES[self.kind]


@dataclass(frozen=True, slots=True)
class Pickled:
    """What a pickle would give.

    Attributes:
        value: its numbers, strings and containers; tensors and other objects are stand-ins.
        storages: the data that its tensors need, by name.
        has_parameter_dict: whether torch must be told of ParameterDict.
    """

    value: Any
    storages: dict[str, Storage]
    has_parameter_dict: bool


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


class _Tensor:
    """Stands for a tensor."""


class _Module:
    """Stands for a ParameterDict."""


class _OrderedDict(dict[Any, Any]):
    """Stands for an OrderedDict."""


def follow(stream: BinaryIO) -> Pickled:
    """Follow one pickle up to its end; the stream stands behind it then.

    Raises:
        EmbeddingFileError: broken, or it asks for what no embedding needs.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            machine.step(opcode.name, argument)
    except EmbeddingFileError:
        raise
    except (
        ValueError,
        IndexError,
        KeyError,
        OverflowError,
        EOFError,
    ):  # of genops, or of a stack that is too short
        raise EmbeddingFileError("its pickle is broken") from None
    return Pickled(machine.value, machine.storages, machine.has_parameter_dict)


@dataclass(slots=True)
class _Machine:
    """The unpickler's stack, marks and memo, with stand-ins for objects; it does with them what torch's unpickler does."""

    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)  # the stacks under each mark
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)
    has_parameter_dict: bool = False
    value: Any = None

    def step(self, name: str, argument: Any) -> None:
        """Do what one opcode says."""
        if name in LITERALS:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in OPCODES:
            OPCODES[name](self, argument)
        else:
            raise EmbeddingFileError(
                f"its pickle uses {name}, which torch does not read", hint=RESAVE
            )

    def protocol(self, number: int) -> None:
        """Only protocol 2, torch's own, is read safely by every version."""
        if number != 2:
            raise EmbeddingFileError(
                f"saved with pickle protocol {number}; torch reads only protocol 2 safely",
                hint=RESAVE,
            )

    def mark(self, _: Any) -> None:
        """Begin a group."""
        self.below.append(self.stack)
        self.stack = []

    def group(self) -> list[Any]:
        """Take everything since the last mark."""
        items = self.stack
        self.stack = self.below.pop()
        return items

    def tuple_of_group(self, _: Any) -> None:
        """Take a group into a tuple."""
        items = self.group()
        self.stack.append(tuple(items))

    def tuple_of(self, count: int) -> None:
        """Take `count` values into a tuple."""
        items = tuple(self.stack[-count:])
        if len(items) < count:
            raise IndexError
        self.stack[-count:] = [items]

    def extend(self, items: list[Any]) -> None:
        """Add to the list on top."""
        if type(self.stack[-1]) is not list:
            raise EmbeddingFileError("its pickle is broken")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        """Add to the dictionary on top; its keys are text or whole numbers, so that finding one takes no time."""
        target = self.stack[-1]
        if type(target) not in (dict, _OrderedDict) or len(items) % 2:
            raise EmbeddingFileError("its pickle is broken")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):
                raise EmbeddingFileError(
                    "its pickle has a dictionary with keys that are neither text nor whole numbers"
                )
            target[key] = value

    def global_(self, name: str) -> None:
        """Name a function or class: those that embeddings need, and no other."""
        if name in UNFIT:
            raise EmbeddingFileError(f"it holds {UNFIT[name]}, as no embedding does", hint=RESAVE)
        if name not in KNOWN:
            named = name.replace(" ", ".")[:100]
            raise EmbeddingFileError(
                f"its pickle asks for {named!r}, which no embedding needs; nothing of it was run",
                hint=RESAVE,
            )
        self.has_parameter_dict |= name == PARAMETER_DICT
        self.stack.append(_Global(name))

    def call(self, _: Any) -> None:
        """Call a function."""
        arguments, function = self.stack.pop(), self.stack.pop()
        name = function.name if isinstance(function, _Global) else ""
        if name == REBUILD_TENSOR:
            self.stack.append(_tensor(arguments))
        elif name == REBUILD_PARAMETER and _is_parameter(arguments):
            self.stack.append(_Tensor())
        elif name == ORDERED_DICT and arguments == ():
            self.stack.append(_OrderedDict())
        elif (
            name in SETS
            and type(arguments) is tuple
            and [*map(type, arguments)] in ([], [list])
            and not any(arguments)
        ):
            self.stack.append(None)
        else:
            raise EmbeddingFileError(
                "its pickle makes an object that no embedding needs", hint=RESAVE
            )

    def new(self, _: Any) -> None:
        """Make an object of a class."""
        arguments, cls = self.stack.pop(), self.stack.pop()
        if cls != _Global(PARAMETER_DICT) or arguments != ():
            raise EmbeddingFileError(
                "its pickle makes an object that no embedding needs", hint=RESAVE
            )
        self.stack.append(_Module())

    def build(self, _: Any) -> None:
        """Give an object its attributes; a state dictionary has one, which no one reads."""
        state, target = self.stack.pop(), self.stack[-1]
        of_state_dict = (
            type(target) is _OrderedDict
            and type(state) is dict
            and len(state) == 1
            and "_metadata" in state
        )
        if not of_state_dict and not (type(target) is _Module and type(state) is dict):
            raise EmbeddingFileError(
                "its pickle makes an object that no embedding needs", hint=RESAVE
            )

    def storage(self, _: Any) -> None:
        """Refer to data: ("storage", type, name, device, count), in older files also None."""
        pid = self.stack.pop()
        if type(pid) is tuple and pid[:1] == ("module",):
            what = "saved in the form that torch had before 1.6, with a ParameterDict in it"
            raise EmbeddingFileError(
                what,
                hint="save it again: torch.save(torch.load(file, weights_only=False), file), if you trust the file",
            )
        if (
            type(pid) is not tuple
            or [*map(type, pid)] not in (PID, [*PID, type(None)])
            or pid[0] != "storage"
        ):
            raise EmbeddingFileError("its pickle is broken")
        _, kind, name, _, numel, *_ = pid
        if kind.name not in ITEM_BYTES or numel < 0:
            raise EmbeddingFileError("its pickle is broken")
        found = Storage(kind.name, numel)
        if self.storages.setdefault(name, found) != found:
            raise EmbeddingFileError("its pickle is broken")
        self.stack.append(found)

    def stop(self, _: Any) -> None:
        """Keep the result."""
        self.value = self.stack.pop()


PID = [str, _Global, str, str, int]
OPCODES: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.protocol,
    "MARK": _Machine.mark,
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "TUPLE": _Machine.tuple_of_group,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.group()),
    "SETITEM": lambda machine, _: machine.set_items(
        [machine.stack.pop(), machine.stack.pop()][::-1]
    ),
    "SETITEMS": lambda machine, _: machine.set_items(machine.group()),
    "GLOBAL": _Machine.global_,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.new,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
    "STOP": _Machine.stop,
}


def _tensor(arguments: Any) -> _Tensor:
    """A tensor that lies inside of its storage."""
    if type(arguments) is not tuple or [*map(type, arguments)] != [
        Storage,
        int,
        tuple,
        tuple,
        bool,
        _OrderedDict,
    ]:
        raise EmbeddingFileError("its pickle holds a tensor that no embedding has", hint=RESAVE)
    storage, offset, size, stride, _, hooks = arguments
    if (
        {*map(type, size), *map(type, stride)} - {int}
        or len(size) != len(stride)
        or len(size) > 8
        or hooks
    ):
        raise EmbeddingFileError("its pickle holds a tensor that no embedding has", hint=RESAVE)
    last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
    if min(offset, *size, *stride, 0) < 0 or (0 not in size and last >= storage.numel):
        raise EmbeddingFileError("its pickle holds a tensor that is larger than its data")
    return _Tensor()


def _is_parameter(arguments: Any) -> bool:
    return (
        type(arguments) is tuple
        and [*map(type, arguments)] == [_Tensor, bool, _OrderedDict]
        and not arguments[2]
    )
