"""The layouts that embedding files have: which tensors are the word's vectors, and under which keys.

A layout is told from names alone; rows and numbers are checked once that is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from coinage.embeddings.file import DTYPES, PAIR
from coinage.embeddings.pickles import ParameterDict
from coinage.errors import EmbeddingFileError
from coinage.models.facts import KNOWN_WIDTHS, SDXL
from coinage.text.placeholder import CHUNK

READ_DTYPES = (*DTYPES.values(), torch.float64)
MOST_VECTORS = 10_000
MOST_NUMBERS = MOST_VECTORS * max(KNOWN_WIDTHS)
GENERIC_KEYS = ("emb_params", "emp_params", "weight", "embedding", "*")  # name a tensor, not a word
HALVES = (PAIR, ("text_encoders_0", "text_encoders_1"))
XTI_KEY = re.compile(r"(IN|OUT)\d\d|MID")
LORA_KEY = re.compile(
    r"^lora_(unet|te\d?|transformer)_|\blora[._](up|down|A|B|linear)|_lora\.|\.(hada|lokr|oft)_|\.alpha$|\.dora_scale$"
)
MODEL_KEY = re.compile(
    r"\.(weight|bias)$|^(model|cond_stage_model|first_stage_model|conditioner|text_model|unet|vae)\.|^state_dict$"
)
BUNDLE_KEY = re.compile(
    r"bundle_emb\.(?P<word>.+?)\.(?P<part>(clip_l|clip_g|emb_params|emp_params)(_out)?|string_to_param\..+)",
    re.DOTALL,
)
# What OneTrainer learns behind a text encoder
OUTPUT_KEY = re.compile(r"(emb_params|emp_params|clip_l|clip_g)_out")
ONLY_OUTPUT = "the word lies in its output vectors, which only OneTrainer reads"
RETRAIN = "train it again in OneTrainer with the output embedding off"
CHOOSE = "choose one with --key, of coinage inspect and convert"


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a file's names say.

    Attributes:
        layout: its id, see `coinage.embeddings.reading.Found`.
        parts: key and tensor, in the order of the rows; a key that comes again adds rows.
        token: the word, where the file names it.
        outputs: whether OneTrainer's output vectors lie beside them.
    """

    layout: str
    parts: tuple[tuple[str, Any], ...]
    token: str | None = None
    step: int = 0
    notes: tuple[str, ...] = ()
    outputs: bool = False


def shown(name: object) -> str:
    """A name of a file in quotes, on one line and not too long."""
    text = repr(str(name))
    return text if len(text) <= 60 else f"{text[:50]}...{text[-5:]}"


def listed(names: Iterable[object]) -> str:
    """Names of a file, the first few of many."""
    every = list(names)
    return ", ".join(map(shown, every[:8])) + (
        f" and {len(every) - 8} more" if len(every) > 8 else ""
    )


def not_embedding(names: Iterable[str]) -> str:
    """What a file with such names is instead of an embedding, or ""."""
    every = list(names)
    if any(LORA_KEY.search(name) for name in every):
        return "not an embedding: it has the tensors of a LoRA"
    return (
        "not an embedding: it has the tensors of a model"
        if any(MODEL_KEY.search(name) for name in every)
        else ""
    )


def recognise(content: object, key: str | None, *, pickled: bool) -> Recognised:
    """Which of a file's tensors are the vectors.

    Args:
        content: what the file holds.
        key: the placeholder, word or tensor to take where there are several.
        pickled: whether it comes from a pickle.

    Raises:
        EmbeddingFileError: not an embedding, or one must be chosen.
    """
    if key is not None and not isinstance(content, Mapping):
        raise EmbeddingFileError(
            f"it holds no {shown(key)}: its tensors have no names", hint="leave out --key"
        )
    if isinstance(content, Tensor):
        return Recognised("T", (("emb_params", content),))
    if isinstance(content, list):
        return _list(content)
    if not isinstance(content, Mapping) or not content:
        raise EmbeddingFileError("not an embedding: there is no tensor in it")
    named = {str(name): value for name, value in content.items()}
    for rule in RULES:
        found = rule(named, key, pickled)
        if found is not None:
            return found
    raise EmbeddingFileError(f"not an embedding: there is no tensor in it, only {listed(named)}")


def _choose(what: str, entries: Mapping[str, Any], key: str | None) -> str:
    """The name to take: the only one, or the one that was asked for."""
    if key is None and len(entries) == 1:
        return next(iter(entries))
    if key is None:
        raise EmbeddingFileError(f"it holds several {what}s: {listed(entries)}", hint=CHOOSE)
    if key not in entries:
        raise EmbeddingFileError(
            f"it holds no {what} {shown(key)}, but {listed(entries)}", hint=CHOOSE
        )
    return key


def _tensors(named: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


def _left_out(names: Iterable[str]) -> tuple[str, ...]:
    extras = list(names)
    return (f"left out: {listed(extras)}",) if extras else ()


def _webui(named: Mapping[str, Any], key: str | None, pickled: bool) -> Recognised | None:  # noqa: ARG001 - as every rule
    """AUTOMATIC1111's dictionary, and that of the original code, whose `string_to_param` is a ParameterDict."""
    if "string_to_param" not in named:
        return None
    params = named["string_to_param"]
    original = isinstance(params, ParameterDict)
    entries = params.state.get("_parameters") if isinstance(params, ParameterDict) else params
    tensors = (
        _tensors({str(name): value for name, value in entries.items()})
        if isinstance(entries, Mapping)
        else {}
    )
    if not tensors:
        raise EmbeddingFileError("not an embedding: its `string_to_param` holds no tensor")
    chosen = _choose("placeholder", tensors, key)
    name, step = named.get("name"), named.get("step")
    placeholder = chosen if chosen not in GENERIC_KEYS else None
    token = name if isinstance(name, str) and name and len(tensors) == 1 else placeholder
    steps = step if type(step) is int and 0 <= step < 2**31 else 0
    return Recognised("O" if original else "A", (("emb_params", tensors[chosen]),), token, steps)


def _xti(named: Mapping[str, Any], key: str | None, pickled: bool) -> Recognised | None:  # noqa: ARG001 - as every rule
    if sum(bool(XTI_KEY.fullmatch(name)) for name in named) > 1:
        raise EmbeddingFileError(
            "an XTI embedding, with vectors for each layer of the UNet; no tool but its trainer reads it"
        )
    return None


def _bundle(named: Mapping[str, Any], key: str | None, pickled: bool) -> Recognised | None:  # noqa: ARG001 - as every rule
    """Embeddings that lie in a LoRA."""
    words: dict[str, dict[str, Any]] = {}
    for name, tensor in named.items():
        if match := BUNDLE_KEY.fullmatch(name):
            words.setdefault(match["word"], {})[match["part"]] = tensor
    if not words:
        return None
    word = _choose("embedding", words, key)
    outputs = any(OUTPUT_KEY.fullmatch(part) for part in words[word])
    halves = tuple((half, words[word][half]) for half in PAIR if half in words[word])
    single = tuple(
        ("emb_params", t)
        for part, t in words[word].items()
        if part not in PAIR and not part.endswith("_out")
    )
    if not halves and not single and outputs:
        raise EmbeddingFileError(ONLY_OUTPUT, hint=RETRAIN)
    if not halves and len(single) != 1:
        raise EmbeddingFileError(f"the embedding {shown(word)} in it has no vectors, or too many")
    return Recognised("B", halves or single, word, outputs=outputs)


def _no_model(named: Mapping[str, Any], key: str | None, pickled: bool) -> Recognised | None:  # noqa: ARG001 - as every rule
    if what := not_embedding(named):
        raise EmbeddingFileError(what)
    return None


def _outputs(named: Mapping[str, Any], key: str | None, pickled: bool) -> Recognised | None:  # noqa: ARG001 - as every rule
    """Output vectors of OneTrainer alone: they stand behind a text encoder, and are no word's vectors."""
    found = [name for name in named if OUTPUT_KEY.fullmatch(name)]
    if found and (key in found or len(found) == len(named)):
        raise EmbeddingFileError(ONLY_OUTPUT, hint=RETRAIN)
    return None


def _halves(named: Mapping[str, Any], key: str | None, pickled: bool) -> Recognised | None:
    """SDXL's two halves, or one of them."""
    for names in HALVES:
        found = {name: named[name] for name in names if name in named}
        if not found or key not in (None, *found):
            continue
        if any(name.startswith("t5") for name in named):
            raise EmbeddingFileError("made for Flux or Stable Diffusion 3: it has vectors for T5")
        extras = [name for name in named if name not in found]
        lone = "Xpt" if pickled else "P"
        outputs = any(OUTPUT_KEY.fullmatch(name) for name in extras)
        layout = "OT" if outputs else lone if len(found) == 1 else "Xpt" if pickled else "X"
        parts = tuple(
            (half, named[name])
            for half, name in zip(PAIR, names, strict=True)
            if name in found and key in (None, name)
        )
        return Recognised(
            "PTI" if names != PAIR else layout, parts, None, 0, _left_out(extras), outputs
        )
    return None


def _params(named: Mapping[str, Any], key: str | None, pickled: bool) -> Recognised | None:
    """`emb_params` of most trainers, `emp_params` of OneTrainer."""
    for name, layout in (("emb_params", "Ept" if pickled else "E"), ("emp_params", "OT")):
        if name in named and key in (None, name):
            extras = [other for other in named if other != name]
            outputs = any(OUTPUT_KEY.fullmatch(other) for other in extras)
            return Recognised(
                "OT" if outputs else layout,
                (("emb_params", named[name]),),
                None,
                0,
                _left_out(extras),
                outputs,
            )
    return None


def _single(named: Mapping[str, Any], key: str | None, pickled: bool) -> Recognised | None:  # noqa: ARG001 - as every rule
    """One tensor under any name, as diffusers writes it: the name is the word."""
    tensors = {
        name: tensor for name, tensor in _tensors(named).items() if not OUTPUT_KEY.fullmatch(name)
    }
    if not tensors:
        return None
    chosen = _choose("tensor", tensors, key)
    token = chosen if chosen not in GENERIC_KEYS else None
    return Recognised(
        "D",
        (("emb_params", tensors[chosen]),),
        token,
        0,
        _left_out(n for n in named if n != chosen),
    )


Rule = Callable[[Mapping[str, Any], str | None, bool], Recognised | None]
# The first that says something is right
RULES: tuple[Rule, ...] = (_webui, _xti, _bundle, _no_model, _outputs, _halves, _params, _single)


def _list(content: list[object]) -> Recognised:
    """A list of dictionaries: their tensors, one under the other, per width."""
    tensors = [
        value
        for item in content
        if isinstance(item, Mapping)
        for value in item.values()
        if isinstance(value, Tensor)
    ]
    if not 0 < len(tensors) <= MOST_VECTORS:
        raise EmbeddingFileError(f"not an embedding: a list with {len(tensors) or 'no'} tensors")
    widths = {tensor.shape[-1] if tensor.ndim else 0 for tensor in tensors}
    if widths == set(SDXL.widths):
        parts = ((PAIR[SDXL.widths.index(tensor.shape[-1])], tensor) for tensor in tensors)
        return Recognised("L", tuple(sorted(parts, key=lambda part: PAIR.index(part[0]))))
    if len(widths) > 1:
        raise EmbeddingFileError(
            f"a list of vectors of different widths: {', '.join(map(str, sorted(widths)))}"
        )
    return Recognised("L", tuple(("emb_params", tensor) for tensor in tensors))


def gather(
    parts: Iterable[tuple[str, Any]],
) -> tuple[dict[str, Tensor], torch.dtype, tuple[str, ...]]:
    """The vectors of a file: [n, d] float32 per key, copied; the dtype they were stored in; what is odd about them.

    A single tensor as wide as SDXL's second text encoder is of that, whatever its name.

    Raises:
        EmbeddingFileError: no floating-point vectors, not finite, too many, or rows that do not match.
    """
    views: dict[str, list[Tensor]] = {}
    notes = []
    dtypes = dict[torch.dtype, None]()
    for key, tensor in parts:
        views.setdefault(key, []).append(_rows(key, tensor))
        dtypes[tensor.dtype] = None
        if tensor.ndim == 1 and "one-dimensional, read as one vector" not in notes:
            notes.append("one-dimensional, read as one vector")
    if len(views) == 1 and next(iter(views.values()))[0].shape[1] == SDXL.widths[1]:
        views = {PAIR[1]: next(iter(views.values()))}
    counts = {key: sum(map(len, rows)) for key, rows in views.items()}
    _check_counts(counts, {key: rows[0].shape[1] for key, rows in views.items()})
    vectors = {key: _copied(rows) for key, rows in views.items()}
    for key, rows in vectors.items():
        # Makes no copy of the rows, as `isfinite` of all would
        if not torch.isfinite(torch.stack(rows.aminmax())).all():
            raise EmbeddingFileError(
                f"{key} holds numbers that are not finite",
                hint="its training failed; take an earlier file of it",
            )
        if rows.shape[1] not in KNOWN_WIDTHS:
            notes.append(f"vector width {rows.shape[1]} matches no known Stable Diffusion model")
    if max(counts.values()) > CHUNK:
        notes.append(f"{max(counts.values())} vectors; most tools read {CHUNK} at most")
    if len(dtypes) > 1:
        notes.append("its tensors have different dtypes")
    return vectors, next(iter(dtypes)), tuple(notes)


def _copied(views: list[Tensor]) -> Tensor:
    """The rows of all in one new tensor [n, d] float32, without a second copy on the way."""
    counts = [len(view) for view in views]
    rows = torch.empty(sum(counts), views[0].shape[1], dtype=torch.float32)
    for part, view in zip(rows.split(counts), views, strict=True):
        part.copy_(view)
    return rows


def _rows(key: str, tensor: Any) -> Tensor:
    """The tensor as [n, d], not copied."""
    if not isinstance(tensor, Tensor):
        raise EmbeddingFileError(f"{key} is not a tensor")
    if (
        tensor.dtype not in READ_DTYPES
        or tensor.layout != torch.strided
        or tensor.device.type != "cpu"
    ):
        raise EmbeddingFileError(
            f"{key} holds {str(tensor.dtype).removeprefix('torch.')}, not floating-point vectors"
        )
    shape = "x".join(map(str, tensor.shape[:4])) + ("x..." if tensor.ndim > 4 else "")
    rows = tensor.detach()
    while rows.ndim > 2 and rows.shape[0] == 1:
        rows = rows[0]
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or 0 in rows.shape:
        raise EmbeddingFileError(f"{key} has the shape [{shape}], which is not a list of vectors")
    if rows.shape[0] in KNOWN_WIDTHS and rows.shape[1] not in KNOWN_WIDTHS:
        raise EmbeddingFileError(f"{key} has the shape [{shape}]", hint="is it transposed?")
    return rows


def _check_counts(counts: Mapping[str, int], widths: Mapping[str, int]) -> None:
    for key, count in counts.items():
        if count > MOST_VECTORS or count * widths[key] > MOST_NUMBERS:
            what = f"{key} has {count} vectors of width {widths[key]}, more than any embedding"
            raise EmbeddingFileError(what, hint="is it a model's whole table?")
    if len({*counts.values()}) > 1:
        raise EmbeddingFileError(
            f"its halves do not match: {' and '.join(f'{n} rows in {key}' for key, n in counts.items())}"
        )
    if tuple(widths.get(key) for key in PAIR) == SDXL.widths[::-1]:
        raise EmbeddingFileError("its halves are swapped: clip_l is 1280 wide and clip_g 768")
