"""Rules that recognise the layouts of embedding files: which tensors are the word's vectors.

A rule goes by names alone; rows and numbers are checked once the vectors are known. `formats.py`
lists the rules in their order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from coinage.embeddings.pickles import ParameterDict
from coinage.embeddings.word import PAIR
from coinage.errors import EmbeddingFileError
from coinage.models.facts import FACTS, ONETRAINER_NAMES, SD2, SDXL, T5

MOST_VECTORS = 10_000
SHOWN_NAMES = 8  # of many, in a message
GENERIC_KEYS = ("emb_params", "emp_params", "weight", "embedding", "*")  # name a tensor, not a word
T5_NAMES = (T5, ONETRAINER_NAMES[T5])
HALVES = (PAIR, ("text_encoders_0", "text_encoders_1"))
XTI_KEY = re.compile(r"(IN|OUT)\d\d|MID")
LORA_KEY = re.compile(
    r"^lora_(unet|te\d?|transformer)_"
    r"|\blora[._](up|down|A|B|linear)"
    r"|_lora\."
    r"|\.(hada|lokr|oft)_"
    r"|\.alpha$"
    r"|\.dora_scale$"
)
MODEL_KEY = re.compile(
    r"\.(weight|bias)$"
    r"|^(model|cond_stage_model|first_stage_model|conditioner|text_model|unet|vae)\."
    r"|^state_dict$"
)
BUNDLE_KEY = re.compile(
    r"bundle_emb\.(?P<word>.+?)"
    r"\.(?P<part>(clip_l|clip_g|emb_params|emp_params)(_out)?|string_to_param\..+)",
    re.DOTALL,
)
# What OneTrainer learns behind a text encoder
KEYS = {key for facts in FACTS.values() for key in facts.keys}
OUTPUT_KEY = re.compile(f"({'|'.join(sorted({*KEYS, *ONETRAINER_NAMES.values()}))})_out")
ONLY_OUTPUT = "the word is in its output vectors, which only OneTrainer reads"
RETRAIN = "train it again in OneTrainer with the output embedding off"
IN_A_LORA = "B"
WORD_ALONE = "a word in a LoRA: the word alone is used, without the LoRA"
CHOOSE = "choose one with --key of coinage inspect or coinage convert"
CHOOSE_WORD = f"{CHOOSE}, --token of coinage verify, or NAME=FILE of coinage generate"


@dataclass(frozen=True, slots=True)
class FileContent:
    """What a file holds, as the rules see it.

    Attributes:
        value: as it was loaded.
        named: the same by name; empty if it has no names.
        key: the placeholder, word or tensor to take if there are several.
        pickled: whether it comes from a pickle.
        token: the word that is wanted: taken without `key` if the file has several and this one.
    """

    value: Any
    named: Mapping[str, Any]
    key: str | None = None
    pickled: bool = False
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a file's names say.

    Attributes:
        layout: its id; `formats.py` has their titles.
        parts: key and tensor, in the order of the rows; a repeated key adds rows.
        token: the word, if the file names it.
        step: optimizer steps of its training; 0 if unknown.
        notes: what was left out, a line each.
        has_outputs: whether OneTrainer's output vectors are beside them.
    """

    layout: str
    parts: tuple[tuple[str, Any], ...]
    token: str | None = None
    step: int = 0
    notes: tuple[str, ...] = ()
    has_outputs: bool = False


LayoutRule = Callable[[FileContent], Recognised | None]


def quoted(name: object) -> str:
    """Return a name of a file in quotes, on one line and not too long."""
    text = repr(str(name))
    return text if len(text) <= 60 else f"{text[:50]}...{text[-5:]}"


def listed(names: Iterable[object]) -> str:
    """Return names of a file as a list in quotes, the first few of many."""
    every = list(names)
    text = ", ".join(quoted(name) for name in every[:SHOWN_NAMES])
    more = len(every) - SHOWN_NAMES
    return f"{text} and {more} more" if more > 0 else text


def why_not_embedding(names: Iterable[str]) -> str:
    """Return what a file with such names is instead of an embedding, or ""."""
    every = list(names)
    if any(LORA_KEY.search(name) for name in every):
        return "not an embedding: it has the tensors of a LoRA"
    if any(MODEL_KEY.search(name) for name in every):
        return "not an embedding: it has the tensors of a model"
    return ""


def bare_tensor(content: FileContent) -> Recognised | None:
    """Recognise a tensor without a name."""
    if not isinstance(content.value, Tensor):
        return None
    return Recognised("T", (("emb_params", content.value),))


def list_of_words(content: FileContent) -> Recognised | None:
    """Recognise a list of dictionaries: their tensors, one below the other, per width."""
    if not isinstance(content.value, list):
        return None
    tensors: list[Tensor] = []
    for item in content.value:
        if isinstance(item, Mapping):
            tensors += _tensors(item).values()
    if not 0 < len(tensors) <= MOST_VECTORS:
        raise EmbeddingFileError(f"not an embedding: a list with {len(tensors) or 'no'} tensors")
    widths = {tensor.shape[-1] if tensor.ndim else 0 for tensor in tensors}
    if widths == set(SDXL.widths):
        parts: list[tuple[str, Any]] = []
        for key, width in zip(SDXL.keys, SDXL.widths, strict=True):
            parts += [(key, tensor) for tensor in tensors if tensor.shape[-1] == width]
        return Recognised("L", tuple(parts))
    if len(widths) > 1:
        shown = ", ".join(map(str, sorted(widths)))
        raise EmbeddingFileError(f"a list of vectors of different widths: {shown}")
    return Recognised("L", tuple(("emb_params", tensor) for tensor in tensors))


def webui(content: FileContent) -> Recognised | None:
    """Recognise AUTOMATIC1111's dictionary, and the original code's with a ParameterDict in it."""
    named = content.named
    if "string_to_param" not in named:
        return None
    parameters = named["string_to_param"]
    is_original = isinstance(parameters, ParameterDict)
    if isinstance(parameters, ParameterDict):
        parameters = parameters.state.get("_parameters")
    tensors = _tensors(parameters) if isinstance(parameters, Mapping) else {}
    if not tensors:
        raise EmbeddingFileError("not an embedding: its `string_to_param` holds no tensor")
    chosen = _choose("placeholder", tensors, content.key)
    token = chosen if chosen not in GENERIC_KEYS else None
    name = named.get("name")
    if isinstance(name, str) and name and len(tensors) == 1:
        token = name
    step = named.get("step")
    if type(step) is not int or not 0 <= step < 2**31:
        step = 0
    parts = (("emb_params", tensors[chosen]),)
    return Recognised("O" if is_original else "A", parts, token, step)


def refuse_xti(content: FileContent) -> None:
    """Refuse an XTI embedding.

    Raises:
        EmbeddingFileError: it is one.
    """
    layers = [name for name in content.named if XTI_KEY.fullmatch(name)]
    if len(layers) > 1:
        raise EmbeddingFileError(
            "an XTI embedding, with vectors for each layer of the UNet; only its trainer reads it"
        )


def bundled(content: FileContent) -> Recognised | None:
    """Recognise embeddings in a LoRA."""
    words: dict[str, dict[str, Any]] = {}
    for name, tensor in content.named.items():
        if match := BUNDLE_KEY.fullmatch(name):
            words.setdefault(match["word"], {})[match["part"]] = tensor
    if not words:
        return None
    wanted = content.token if content.token in words else None
    token = _choose("embedding", words, content.key or wanted, CHOOSE_WORD)
    tensors = words[token]
    has_outputs = any(OUTPUT_KEY.fullmatch(part) for part in tensors)
    parts = [(half, tensors[half]) for half in PAIR if half in tensors]
    if not parts:
        for part, tensor in tensors.items():
            if not part.endswith("_out"):
                parts.append(("emb_params", tensor))
        if not parts and has_outputs:
            raise EmbeddingFileError(ONLY_OUTPUT, hint=RETRAIN)
        if len(parts) != 1:
            raise EmbeddingFileError(
                f"the embedding {quoted(token)} in it has no vectors, or too many"
            )
    elif len(parts) == 1 and _width(parts[0][1]) == SD2.widths[0]:
        parts = [(SD2.keys[0], parts[0][1])]  # OneTrainer has one name for SD 1 and SD 2
    return Recognised(IN_A_LORA, tuple(parts), token, notes=(WORD_ALONE,), has_outputs=has_outputs)


def _width(tensor: Any) -> int:
    return int(tensor.shape[-1]) if isinstance(tensor, Tensor) and tensor.ndim else 0


def refuse_model(content: FileContent) -> None:
    """Refuse a LoRA or a model.

    Raises:
        EmbeddingFileError: it is one.
    """
    if why := why_not_embedding(content.named):
        raise EmbeddingFileError(why)


def refuse_outputs(content: FileContent) -> None:
    """Refuse output vectors of OneTrainer alone: they stand behind a text encoder.

    Raises:
        EmbeddingFileError: there is nothing else, or they were asked for.
    """
    outputs = [name for name in content.named if OUTPUT_KEY.fullmatch(name)]
    nothing_else = len(outputs) == len(content.named)
    if outputs and (content.key in outputs or nothing_else):
        raise EmbeddingFileError(ONLY_OUTPUT, hint=RETRAIN)


def halves(content: FileContent) -> Recognised | None:
    """Recognise SDXL's two halves, or one of them."""
    if any(name in content.named for name in T5_NAMES):
        return _with_t5(content)
    for names in HALVES:
        present = [name for name in names if name in content.named]
        if not present or content.key not in (None, *present):
            continue
        extras = [name for name in content.named if name not in present]
        has_outputs = any(OUTPUT_KEY.fullmatch(name) for name in extras)
        parts = []
        for half, name in zip(PAIR, names, strict=True):
            if name in present and content.key in (None, name):
                parts.append((half, content.named[name]))
        layout = "PTI"
        if names == PAIR:
            layout = "OT" if has_outputs else _pair_layout(len(present), content.pickled)
        return Recognised(layout, tuple(parts), notes=_left_out(extras), has_outputs=has_outputs)
    return None


def _with_t5(content: FileContent) -> Recognised:
    """Recognise vectors for T5, with those for CLIP beside them or alone."""
    t5 = next(name for name in T5_NAMES if name in content.named)
    keys = {**{half: half for half in PAIR}, t5: T5}
    present = [name for name in keys if name in content.named]
    wanted = [name for name in present if content.key in (None, name)]
    if not wanted:
        what = f"it holds no tensor {quoted(content.key)}, but {listed(present)}"
        raise EmbeddingFileError(what, hint=CHOOSE)
    extras = [name for name in content.named if name not in present]
    has_outputs = any(OUTPUT_KEY.fullmatch(name) for name in extras)
    return Recognised(
        "S3" if t5 == T5 and not has_outputs else "OT",
        tuple((keys[name], content.named[name]) for name in wanted),
        notes=_left_out(extras),
        has_outputs=has_outputs,
    )


def _pair_layout(count: int, pickled: bool) -> str:
    if pickled:
        return "Xpt"
    return "P" if count == 1 else "X"


def sd_scripts(content: FileContent) -> Recognised | None:
    """Recognise `emb_params` of most trainers."""
    return _one_tensor(content, "emb_params", "Ept" if content.pickled else "E")


def onetrainer(content: FileContent) -> Recognised | None:
    """Recognise `emp_params` of OneTrainer."""
    return _one_tensor(content, "emp_params", "OT")


def _one_tensor(content: FileContent, name: str, layout: str) -> Recognised | None:
    if name not in content.named or content.key not in (None, name):
        return None
    extras = [other for other in content.named if other != name]
    has_outputs = any(OUTPUT_KEY.fullmatch(other) for other in extras)
    return Recognised(
        "OT" if has_outputs else layout,
        (("emb_params", content.named[name]),),
        notes=_left_out(extras),
        has_outputs=has_outputs,
    )


def diffusers(content: FileContent) -> Recognised | None:
    """Recognise one tensor under any name, as diffusers writes it: the name is the word."""
    tensors = _tensors(content.named)
    for name in list(tensors):
        if OUTPUT_KEY.fullmatch(name):
            del tensors[name]
    if not tensors:
        return None
    chosen = _choose("tensor", tensors, content.key)
    return Recognised(
        "D",
        (("emb_params", tensors[chosen]),),
        token=chosen if chosen not in GENERIC_KEYS else None,
        notes=_left_out(name for name in content.named if name != chosen),
    )


def _choose(what: str, entries: Mapping[str, Any], key: str | None, hint: str = CHOOSE) -> str:
    """Return the name to take: the only one, or the one that was asked for."""
    if key is None and len(entries) == 1:
        return next(iter(entries))
    if key is None:
        raise EmbeddingFileError(f"it holds several {what}s: {listed(entries)}", hint=hint)
    if key not in entries:
        what_it_holds = f"it holds no {what} {quoted(key)}, but {listed(entries)}"
        raise EmbeddingFileError(what_it_holds, hint=hint)
    return key


def _tensors(entries: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(name): value for name, value in entries.items() if isinstance(value, Tensor)}


def _left_out(names: Iterable[str]) -> tuple[str, ...]:
    extras = list(names)
    return (f"left out: {listed(extras)}",) if extras else ()
