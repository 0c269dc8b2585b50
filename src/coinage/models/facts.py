"""Facts about each family of models, one row a family: the only place that knows them. Imports no torch.

Code outside `models/` and `diffusion/` asks a row for a fact and never which family it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from coinage.models.family_facts import (
    FamilyFacts,
    ModelSizes,
    TextEncoderFacts,
    TextEncoderKind,
    stays_whole,
)

__all__ = [
    "DEFAULT",
    "FACTS",
    "FLUX",
    "KNOWN_WIDTHS",
    "ONETRAINER_NAMES",
    "PAIRS",
    "SD1",
    "SD2",
    "SD3",
    "SDXL",
    "T5",
    "FamilyFacts",
    "ModelSizes",
    "TextEncoderFacts",
    "TextEncoderKind",
    "family_of_vectors",
    "fits_other_families",
    "key_of_width",
    "pair_of_widths",
    "stays_whole",
]

SD1 = FamilyFacts(
    name="sd1",
    display_name="Stable Diffusion 1.x",
    architecture="stable-diffusion-v1",
    v_architecture="stable-diffusion-v1",
    base_version="sd_v1",
    v_base_version="sd_v1",
    script_hint="train_textual_inversion.py without --v2",
    file_prefix="cond_stage_model.transformer.",
    text_encoders=(
        # SDXL has the same encoder beside another
        TextEncoderFacts(
            key="emb_params",
            other_keys=("clip_l",),
            onetrainer_key="emp_params",
            width=768,
            layers=12,
            open_clip=False,
        ),
    ),
    side=512,
    released=ModelSizes(859_520_964, 466_884, 123_060_480, 38_042_880, 83_653_863, 37_945_344),
)
SD2 = FamilyFacts(
    name="sd2",
    display_name="Stable Diffusion 2.x",
    architecture="stable-diffusion-v2-512",
    v_architecture="stable-diffusion-v2-768-v",
    base_version="sd_v2",
    v_base_version="sd_v2_v",
    script_flags=("--v2",),
    script_hint="train_textual_inversion.py with --v2",
    file_prefix="cond_stage_model.model.",
    text_encoders=(
        TextEncoderFacts(
            key="emb_params", onetrainer_key="emp_params", width=1024, layers=23, open_clip=True
        ),
    ),
    side=768,
    file_hides_prediction=True,
    # The text encoder ends before its last layer
    unused_text_tensors=("text_projection", "resblocks.23."),
    released=ModelSizes(865_910_724, 466_884, 340_387_840, 50_768_896, 83_653_863, 50_593_792),
)
SDXL = FamilyFacts(
    name="sdxl",
    display_name="Stable Diffusion XL",
    short_name="SDXL",
    architecture="stable-diffusion-xl-v1-base",
    v_architecture="stable-diffusion-xl-v1-base",
    base_version="sdxl_base_v1-0",
    v_base_version="sdxl_base_v1-0",
    script="sdxl_train_textual_inversion.py",
    script_hint="sdxl_train_textual_inversion.py",
    file_prefix="conditioner.embedders.1.",
    text_encoders=(
        TextEncoderFacts(
            key="clip_l",
            prefix="conditioner.embedders.0.",
            width=768,
            layers=12,
            open_clip=False,
            choices=("l",),
        ),
        TextEncoderFacts(
            key="clip_g",
            folder="text_encoder_2",
            tokenizer_folder="tokenizer_2",
            prefix="conditioner.embedders.1.",
            width=1280,
            layers=32,
            open_clip=True,
            choices=("g",),
            kind="projected",
            pools=True,
        ),
    ),
    side=1024,
    bucket_unit=32,
    takes_sizes=True,
    reads_clip_skip=False,
    fills_prompts=True,
    vae_overflows_fp16=True,
    released=ModelSizes(
        2_567_463_684, 1_606_404, 817_720_320, 101_550_080, 83_653_863, 101_187_584
    ),
)
T5_XXL = TextEncoderFacts(
    key="t5xxl",
    onetrainer_key="t5",
    prefix="text_encoders.t5xxl.",
    width=4096,
    layers=24,
    choices=("t5",),
    kind="t5",
)
SD3 = FamilyFacts(
    name="sd3",
    display_name="Stable Diffusion 3",
    architecture="stable-diffusion-3",
    v_architecture="stable-diffusion-3",
    base_version="sd3",
    v_base_version="sd3",
    script="coinage train",
    script_hint="coinage train",
    file_prefix="model.diffusion_model.joint_blocks.",
    hub_id="stabilityai/stable-diffusion-3.5-medium",
    text_encoders=(
        TextEncoderFacts(
            key="clip_l",
            prefix="text_encoders.clip_l.",
            width=768,
            layers=12,
            choices=("l", "clip"),
            kind="projected",
            pools=True,
        ),
        TextEncoderFacts(
            key="clip_g",
            folder="text_encoder_2",
            tokenizer_folder="tokenizer_2",
            prefix="text_encoders.clip_g.",
            width=1280,
            layers=32,
            open_clip=True,
            choices=("g", "clip"),
            kind="projected",
            pools=True,
        ),
        replace(
            T5_XXL,
            folder="text_encoder_3",
            tokenizer_folder="tokenizer_3",
            optional=True,
            room=255,
        ),
    ),
    transformer="SD3Transformer2DModel",
    pipeline="StableDiffusion3Pipeline",
    side=1024,
    latent_channels=16,
    patch=2,
    denoiser="transformer",
    is_flow=True,
    cross_attends=False,
    most_chunks=1,
    in_diffusers=False,
    released=ModelSizes(
        2_469_663_936, 227_742_912, 5_580_620_800, 233_349_120, 83_819_683, 232_783_872
    ),
)
FLUX = FamilyFacts(
    name="flux",
    display_name="FLUX.1",
    short_name="FLUX.1",
    # As sd-scripts writes it where the variant is not known: a word fits all of them
    architecture="flux-1",
    v_architecture="flux-1",
    base_version="flux1",
    v_base_version="flux1",
    script="coinage train",
    script_hint="coinage train",
    file_prefix="model.diffusion_model.double_blocks.",
    bare_names=(
        "double_blocks.",
        "single_blocks.",
        "img_in.",
        "txt_in.",
        "time_in.",
        "vector_in.",
        "guidance_in.",
        "final_layer.",
    ),
    input_layer="img_in.weight",
    vae_prefix="vae.",
    hub_id="black-forest-labs/FLUX.1-dev",
    text_encoders=(
        TextEncoderFacts(
            key="clip_l",
            prefix="text_encoders.clip_l.",
            width=768,
            layers=12,
            choices=("l", "clip"),
            pools=True,
        ),
        replace(T5_XXL, folder="text_encoder_2", tokenizer_folder="tokenizer_2", room=511),
    ),
    transformer="FluxTransformer2DModel",
    pipeline="FluxPipeline",
    side=1024,
    latent_channels=16,
    patch=2,
    packs=True,
    denoiser="transformer",
    is_flow=True,
    cross_attends=False,
    most_chunks=1,
    guidance=3.5,
    reads_clip_skip=False,
    released=ModelSizes(
        11_901_408_320, 3_085_376, 4_885_371_136, 169_841_920, 83_819_683, 169_541_632
    ),
)
FACTS: Mapping[str, FamilyFacts] = {facts.name: facts for facts in (SD1, SD2, SDXL, SD3, FLUX)}
DEFAULT = SD1  # where neither the model nor a flag names a family
KNOWN_WIDTHS = frozenset(width for facts in FACTS.values() for width in facts.widths)
# Names of vectors in OneTrainer's files where they are not their keys
ONETRAINER_NAMES: Mapping[str, str] = {
    encoder.key: encoder.onetrainer_key
    for facts in FACTS.values()
    for encoder in facts.text_encoders
    if encoder.onetrainer_key
}
# Families with two text encoders: diffusers has a file for each half of their words
PAIRS = tuple(facts for facts in FACTS.values() if len(facts.text_encoders) == 2)
T5 = T5_XXL.key


def fits_other_families(family: str | None) -> bool:
    """Return whether a family's text encoder is also one of another family's."""
    return family is not None and any(e.other_keys for e in FACTS[family].text_encoders)


def pair_of_widths(widths: Collection[int]) -> FamilyFacts | None:
    """Return the family whose two text encoders have these widths, in any order; None if none has."""
    return next((facts for facts in PAIRS if set(facts.widths) == set(widths)), None)


def key_of_width(width: int) -> str | None:
    """Return the key of the only text encoder of pairs that is so wide; None if others are as well."""
    keys = set[str]()
    for facts in FACTS.values():
        keys |= {encoder.key for encoder in facts.text_encoders if encoder.width == width}
    seconds = keys & {facts.keys[1] for facts in PAIRS}
    return next(iter(seconds)) if len(keys) == 1 and seconds else None


def family_of_vectors(widths: Mapping[str, int], architecture: str = "") -> FamilyFacts | None:
    """Return the family that an embedding file's vectors are made for; None if no family has such.

    A half alone counts as one of a family with two text encoders, unless it is a whole word of another.

    Args:
        widths: of the vectors, by their key in the file.
        architecture: that the file's header names, which tells apart families with the same text
            encoders; "" if it names none.
    """
    named = [facts for facts in FACTS.values() if architecture.startswith(facts.architecture)]
    for facts in (*named, *FACTS.values()):
        known = set[tuple[str, int]]()
        for encoder in facts.text_encoders:
            known |= {(key, encoder.width) for key in (encoder.key, *encoder.other_keys)}
        needed = {encoder.key for encoder in facts.text_encoders if not encoder.optional}
        if len(needed) < len(facts.text_encoders) and not needed <= set(widths):
            continue
        if 0 < len(widths) <= len(facts.text_encoders) and set(widths.items()) <= known:
            return facts
    return None
