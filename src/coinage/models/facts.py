"""Facts about each family of models, one row a family: the only place that knows them. Imports no torch.

Code outside `models/` and `diffusion/` asks a row for a fact and never which family it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

LEAST_CHANNELS = 16  # of a convolution in 8 bits; latents have 4, or 9 where a mask goes with them
ROOM = 75  # tokens of a text in a row of CLIP
TextEncoderKind = Literal["clip", "projected", "t5"]  # projected: CLIP with a pooled vector


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoderFacts:
    """One text encoder of a family.

    Attributes:
        key: name of its vectors in embedding files.
        other_keys: names in the files of other families whose vectors fit it as well.
        onetrainer_key: name of its vectors in OneTrainer's files, where it is another one.
        folder: its folder in a diffusers model.
        tokenizer_folder: the folder of its tokenizer.
        prefix: start of its tensors' names in a single file.
        width: numbers in a token embedding, in the released models.
        layers: of the released models, as far as they are used.
        open_clip: trained by OpenCLIP, which pads texts with `!`.
        choices: of --train_encoders that choose it alone, or with others of its kind.
        kind: of the text encoder.
        pools: the denoiser reads its vector at the end of a text.
        optional: a model may come without it.
        room: tokens of a text that fit in one row.
    """

    key: str
    other_keys: tuple[str, ...] = ()
    onetrainer_key: str = ""
    folder: str = "text_encoder"
    tokenizer_folder: str = "tokenizer"
    prefix: str = "cond_stage_model."
    width: int
    layers: int
    open_clip: bool = False
    choices: tuple[str, ...] = ()
    kind: TextEncoderKind = "clip"
    pools: bool = False
    optional: bool = False
    room: int = ROOM


def stays_whole(shape: Sequence[int]) -> bool:
    """Return whether a weight is not kept in 8 bits: biases, norms, and convolutions from or to latents.

    Nor is a transformer's table of places, which is no weight of a layer.

    Those convolutions are few, and each number of the prediction goes through the last one: with it
    in 8 bits a word's gradient at much noise has a cosine of 0.97 to the right one, without 0.99.
    """
    return len(shape) in (1, 3) or (len(shape) == 4 and min(shape[:2]) < LEAST_CHANNELS)


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """Numbers of parameters of a model's parts.

    Attributes:
        unet: of the UNet.
        unet_small: those among them that --fp8_base leaves as they are (`stays_whole`).
        text: of all text encoders.
        text_kept: tables and norms among them, which stay in float32.
        vae: of the VAE.
        text_tables: token tables among those.
        from_model: counted in the model itself; off: at least one part is the released model's.
        inpaints: the UNet also reads a mask and a masked picture, as far as its files show it.
    """

    unet: int
    unet_small: int
    text: int
    text_kept: int
    vae: int
    text_tables: int = 0
    from_model: bool = False
    inpaints: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyFacts:
    """One family of models.

    Attributes:
        name: as `ModelConfig.family` has it.
        display_name: as people write it.
        short_name: as they write it in passing, where that is shorter.
        architecture: ModelSpec's name, and `v_architecture` that of models that predict v.
        base_version: `ss_base_model_version` in headers, and `v_base_version` of models that predict v.
        script: the sd-scripts command that trains it, with its `script_flags`.
        script_hint: the same in words.
        file_prefix: start of names that only this family has in a single file.
        bare_names: starts of the denoiser's names that files may have without its prefix.
        input_layer: name there of the weight [N, C] that takes C channels, where the family checks it.
        vae_prefix: another start of the VAE's names in a single file, "" without.
        hub_id: of a released model.
        side: of the pictures that the released models are made for, in pixels.
        bucket_unit: sides of buckets are multiples of it, in pixels.
        latent_channels: of the VAE's latents.
        latent_scale: pixels along a side for one of the latents.
        patch: latents along a side that the denoiser takes as one.
        packs: the denoiser takes them as tokens [B, T, C patch^2], not as a picture.
        denoiser: folder of what predicts, in a diffusers model.
        transformer: its class, where it is no UNet.
        pipeline: class that a folder with such a transformer names.
        is_flow: trained by flow matching; otherwise by diffusion.
        cross_attends: layers of the denoiser read the text alone, which shows where a word acts.
        most_chunks: rows of 75 tokens that a text may take.
        guidance: scale with which it is drawn, where none is given.
        in_diffusers: its pipeline there loads words.
        takes_sizes: the UNet also reads a pooled text vector and the picture's sizes.
        reads_clip_skip: the layer of the text encoder can be chosen.
        fills_prompts: prompts take as many chunks as captions in training, in sd-scripts.
        vae_overflows_fp16: the family's own VAE needs float32 where fp16 is asked for.
        file_hides_prediction: models predict noise or v, and single files often do not say which.
        unused_text_tensors: parts of names of a text encoder's tensors that are not loaded.
        released: sizes of the released model.
    """

    name: str
    display_name: str
    short_name: str = ""
    architecture: str
    v_architecture: str
    base_version: str
    v_base_version: str
    script: str = "train_textual_inversion.py"
    script_flags: tuple[str, ...] = ()
    script_hint: str
    file_prefix: str
    bare_names: tuple[str, ...] = ()
    input_layer: str = ""
    vae_prefix: str = ""
    hub_id: str = ""
    text_encoders: tuple[TextEncoderFacts, ...]
    transformer: str = ""
    pipeline: str = ""
    side: int
    bucket_unit: int = 64
    latent_channels: int = 4
    latent_scale: int = 8
    patch: int = 1
    packs: bool = False
    denoiser: str = "unet"
    is_flow: bool = False
    cross_attends: bool = True
    most_chunks: int = 3
    guidance: float = 7.5
    in_diffusers: bool = True
    takes_sizes: bool = False
    reads_clip_skip: bool = True
    fills_prompts: bool = False
    vae_overflows_fp16: bool = False
    file_hides_prediction: bool = False
    unused_text_tensors: tuple[str, ...] = ()
    released: ModelSizes

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of a word's vectors in embedding files, one for each text encoder."""
        return tuple(encoder.key for encoder in self.text_encoders)

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the token embeddings, one for each text encoder."""
        return tuple(encoder.width for encoder in self.text_encoders)

    def learns_in(self, choice: str, keys: Collection[str] = ()) -> tuple[bool, ...]:
        """Return for each text encoder whether a word learns there.

        Args:
            choice: of --train_encoders; one that the family does not have stands for all.
            keys: of the text encoders that a model has; () for all of the family.
        """
        chosen = {encoder.key for encoder in self.text_encoders if choice in encoder.choices}
        return tuple(not chosen or key in chosen for key in keys or self.keys)

    @property
    def encoder_choices(self) -> tuple[str, ...]:
        """What --train_encoders may say of the family, beside all of them."""
        choices = [choice for encoder in self.text_encoders for choice in encoder.choices]
        return tuple(dict.fromkeys(choices))

    def chunks_read(self, asked: int) -> int:
        """Return how many rows of 75 tokens of a caption some text encoder reads.

        Args:
            asked: by --max_token_length.
        """
        longest = max(encoder.room for encoder in self.text_encoders if not encoder.optional)
        return max(min(asked, self.most_chunks), longest // ROOM)

    @property
    def size_unit(self) -> int:
        """Pixels that the sides of a picture are multiples of."""
        return self.latent_scale * self.patch

    @property
    def input_channels(self) -> int:
        """Channels that the denoiser takes."""
        return self.latent_channels * (self.patch**2 if self.packs else 1)

    @property
    def pools(self) -> bool:
        """Whether the denoiser reads a pooled vector of a text."""
        return any(encoder.pools for encoder in self.text_encoders)

    @property
    def folders(self) -> tuple[str, ...]:
        """Folders that a diffusers model needs, the VAE's last."""
        needed = [encoder for encoder in self.text_encoders if not encoder.optional]
        texts = [encoder.folder for encoder in needed]
        tokenizers = [encoder.tokenizer_folder for encoder in needed[:1]]
        return ("scheduler", *texts, *tokenizers, self.denoiser, "vae")

    @property
    def vector_width(self) -> int:
        """Numbers in one vector of a word, over all text encoders."""
        return sum(self.widths)


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
        TextEncoderFacts(
            key="t5xxl",
            onetrainer_key="t5",
            folder="text_encoder_3",
            tokenizer_folder="tokenizer_3",
            prefix="text_encoders.t5xxl.",
            width=4096,
            layers=24,
            choices=("t5",),
            kind="t5",
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
        TextEncoderFacts(
            key="t5xxl",
            onetrainer_key="t5",
            folder="text_encoder_2",
            tokenizer_folder="tokenizer_2",
            prefix="text_encoders.t5xxl.",
            width=4096,
            layers=24,
            choices=("t5",),
            kind="t5",
            room=511,
        ),
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
T5 = next(e.key for facts in FACTS.values() for e in facts.text_encoders if e.kind == "t5")


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
