"""Pickles followed opcode by opcode to learn what they would build, without calling or importing anything.

`torch.load(weights_only=True)` runs no code of a file, but lets it ask for any amount of memory or
time: a tensor of a million rows on four bytes, `bytearray(10**10)`, a key that is a tuple of tuples
of tuples. So a file is followed here first, and only what embeddings are made of is accepted:
numbers, strings, lists, dictionaries with plain keys, and tensors that are inside of their own data.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from coinage.errors import EmbeddingFileError

MOST_PICKLE_BYTES = 2**18  # an embedding's has a few hundred
PARAMETER_DICT = "torch.nn.modules.container ParameterDict"
ORDERED_DICT = "collections OrderedDict"
REBUILD_TENSOR = "torch._utils _rebuild_tensor_v2"
REBUILD_PARAMETER = "torch._utils _rebuild_parameter"
SETS = ("__builtin__ set", "builtins set")
ITEM_BYTES = {
    "torch ByteStorage": 1,
    "torch CharStorage": 1,
    "torch BoolStorage": 1,
    "torch HalfStorage": 2,
    "torch BFloat16Storage": 2,
    "torch ShortStorage": 2,
    "torch FloatStorage": 4,
    "torch IntStorage": 4,
    "torch DoubleStorage": 8,
    "torch LongStorage": 8,
    "torch ComplexFloatStorage": 8,
    "torch ComplexDoubleStorage": 16,
}
ALLOWED_GLOBALS = {
    PARAMETER_DICT,
    ORDERED_DICT,
    REBUILD_TENSOR,
    REBUILD_PARAMETER,
    *SETS,
    *ITEM_BYTES,
}
UNUSUAL_GLOBALS = {  # what torch would build, and no embedding is made of
    "torch._utils _rebuild_qtensor": "quantised numbers",
    "torch._utils _rebuild_tensor_v3": "numbers of an unusual type, such as float8",
    "torch._utils _rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils _rebuild_meta_tensor_no_storage": "a tensor without data",
    "numpy.core.multiarray scalar": "numpy numbers",
    "numpy._core.multiarray scalar": "numpy numbers",
    "torch QInt8Storage": "quantised numbers",
    "torch QUInt8Storage": "quantised numbers",
    "torch QInt32Storage": "quantised numbers",
    "torch QUInt4x2Storage": "quantised numbers",
    "torch QUInt2x4Storage": "quantised numbers",
}
RESAVE = "open it in the program that wrote it, and save it as .safetensors"
MOST_DIMENSIONS = 8  # of a tensor
LITERALS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE")
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
BROKEN = "its pickle is broken"
OTHER_OBJECT = "its pickle makes an object that no embedding needs"
OTHER_TENSOR = "its pickle holds a tensor that no embedding has"
# Of torch before 1.6, with a ParameterDict in it
OLD_MODULE = "saved in the form that torch had before 1.6, with a ParameterDict in it"
SAVE_AGAIN = (
    "save it again: torch.save(torch.load(file, weights_only=False), file), if you trust the file"
)


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
        """Its size in bytes."""
        return self.numel * ITEM_BYTES[self.kind]


@dataclass(frozen=True, slots=True)
class Pickled:
    """What a pickle would build.

    Attributes:
        value: its numbers, strings and containers; tensors and other objects are stand-ins.
        storages: the data that its tensors need, by name.
        has_parameter_dict: whether torch must be allowed a ParameterDict.
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
    """Follow one pickle up to its end, and leave the stream behind it.

    Raises:
        EmbeddingFileError: broken, or it asks for what no embedding needs.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            machine.step(opcode.name, argument)
    except EmbeddingFileError:
        raise
    except (ValueError, IndexError, KeyError, OverflowError, EOFError):
        # Of genops, or of a stack that is too short
        raise EmbeddingFileError(BROKEN) from None
    return Pickled(machine.value, machine.storages, machine.has_parameter_dict)


@dataclass(slots=True)
class _Machine:
    """The unpickler's stack, marks and memo, with stand-ins for objects.

    It does with them what torch's unpickler does.
    """

    stack: list[Any] = field(default_factory=list)
    stacks_below: list[list[Any]] = field(default_factory=list)  # one under each mark
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)
    has_parameter_dict: bool = False
    value: Any = None

    def step(self, name: str, argument: Any) -> None:
        """Apply one opcode."""
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
        """Refuse protocols other than 2, torch's own, which every version reads safely."""
        if number != 2:
            raise EmbeddingFileError(
                f"saved with pickle protocol {number}; torch reads only protocol 2 safely",
                hint=RESAVE,
            )

    def mark(self, _: Any) -> None:
        """Begin a group."""
        self.stacks_below.append(self.stack)
        self.stack = []

    def group(self) -> list[Any]:
        """Remove and return everything since the last mark."""
        items = self.stack
        self.stack = self.stacks_below.pop()
        return items

    def tuple_of_group(self, _: Any) -> None:
        """Replace the group on top by a tuple of it."""
        items = self.group()
        self.stack.append(tuple(items))

    def tuple_of(self, count: int) -> None:
        """Replace the last `count` values by a tuple of them."""
        items = tuple(self.stack[-count:])
        if len(items) < count:
            raise IndexError
        self.stack[-count:] = [items]

    def extend(self, items: list[Any]) -> None:
        """Add to the list on top."""
        if type(self.stack[-1]) is not list:
            raise EmbeddingFileError(BROKEN)
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        """Add to the dictionary on top; its keys must be text or whole numbers, which hash quickly."""
        target = self.stack[-1]
        if type(target) not in (dict, _OrderedDict) or len(items) % 2:
            raise EmbeddingFileError(BROKEN)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):
                raise EmbeddingFileError(
                    "its pickle has a dictionary with keys that are neither text nor whole numbers"
                )
            target[key] = value

    def global_(self, name: str) -> None:
        """Push a function or class; refuse those that embeddings do not need."""
        if name in UNUSUAL_GLOBALS:
            what = UNUSUAL_GLOBALS[name]
            raise EmbeddingFileError(f"it holds {what}, as no embedding does", hint=RESAVE)
        if name not in ALLOWED_GLOBALS:
            shown_name = name.replace(" ", ".")[:100]
            raise EmbeddingFileError(
                f"its pickle asks for {shown_name!r}, which no embedding needs; nothing of it was run",
                hint=RESAVE,
            )
        self.has_parameter_dict |= name == PARAMETER_DICT
        self.stack.append(_Global(name))

    def call(self, _: Any) -> None:
        """Replace a function and its arguments by a stand-in for its result."""
        arguments, function = self.stack.pop(), self.stack.pop()
        name = function.name if isinstance(function, _Global) else ""
        if name == REBUILD_TENSOR:
            self.stack.append(_tensor(arguments))
        elif name == REBUILD_PARAMETER and _is_parameter(arguments):
            self.stack.append(_Tensor())
        elif name == ORDERED_DICT and arguments == ():
            self.stack.append(_OrderedDict())
        elif name in SETS and _is_empty_set(arguments):
            self.stack.append(None)
        else:
            raise EmbeddingFileError(OTHER_OBJECT, hint=RESAVE)

    def new(self, _: Any) -> None:
        """Replace a class and its arguments by a stand-in for an object."""
        arguments, cls = self.stack.pop(), self.stack.pop()
        if cls != _Global(PARAMETER_DICT) or arguments != ():
            raise EmbeddingFileError(OTHER_OBJECT, hint=RESAVE)
        self.stack.append(_Module())

    def build(self, _: Any) -> None:
        """Accept an object's attributes; a state dictionary has one, which nothing reads."""
        state, target = self.stack.pop(), self.stack[-1]
        is_module = type(target) is _Module and type(state) is dict
        is_state_dict = type(target) is _OrderedDict and type(state) is dict
        if is_state_dict:
            is_state_dict = [*state] == ["_metadata"]
        if not is_module and not is_state_dict:
            raise EmbeddingFileError(OTHER_OBJECT, hint=RESAVE)

    def storage(self, _: Any) -> None:
        """Replace a reference to data by its stand-in.

        The reference is ("storage", type, name, device, count), in older files also None.
        """
        reference = self.stack.pop()
        if type(reference) is not tuple:
            raise EmbeddingFileError(BROKEN)
        if reference[:1] == ("module",):
            raise EmbeddingFileError(OLD_MODULE, hint=SAVE_AGAIN)
        types = [*map(type, reference)]
        if types not in (REFERENCE, [*REFERENCE, type(None)]) or reference[0] != "storage":
            raise EmbeddingFileError(BROKEN)
        _, kind, name, _, numel, *_ = reference
        if kind.name not in ITEM_BYTES or numel < 0:
            raise EmbeddingFileError(BROKEN)
        storage = Storage(kind.name, numel)
        if self.storages.setdefault(name, storage) != storage:
            raise EmbeddingFileError(BROKEN)
        self.stack.append(storage)

    def stop(self, _: Any) -> None:
        """Keep the result."""
        self.value = self.stack.pop()


REFERENCE = [str, _Global, str, str, int]
TENSOR_ARGUMENTS = [Storage, int, tuple, tuple, bool, _OrderedDict]
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
    """Return a stand-in for a tensor that is inside of its storage.

    Raises:
        EmbeddingFileError: it is not, or has what no embedding has.
    """
    if type(arguments) is not tuple or [*map(type, arguments)] != TENSOR_ARGUMENTS:
        raise EmbeddingFileError(OTHER_TENSOR, hint=RESAVE)
    storage, offset, size, stride, _, hooks = arguments
    has_other_types = {*map(type, size), *map(type, stride)} - {int}
    if has_other_types or len(size) != len(stride) or len(size) > MOST_DIMENSIONS or hooks:
        raise EmbeddingFileError(OTHER_TENSOR, hint=RESAVE)
    last = offset
    for count, step in zip(size, stride, strict=True):
        last += (count - 1) * step
    if min(offset, *size, *stride, 0) < 0 or (0 not in size and last >= storage.numel):
        raise EmbeddingFileError("its pickle holds a tensor that is larger than its data")
    return _Tensor()


def _is_parameter(arguments: Any) -> bool:
    if type(arguments) is not tuple or [*map(type, arguments)] != [_Tensor, bool, _OrderedDict]:
        return False
    return not arguments[2]


def _is_empty_set(arguments: Any) -> bool:
    if type(arguments) is not tuple or [*map(type, arguments)] not in ([], [list]):
        return False
    return not any(arguments)
