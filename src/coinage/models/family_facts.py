"""What a row of facts about a family of models holds; `facts` has the rows. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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

    @property
    def network(self) -> str:
        """What messages call the denoiser."""
        return "the UNet" if self.denoiser == "unet" else f"the {self.denoiser}"

    @property
    def t5s(self) -> tuple[TextEncoderFacts, ...]:
        """Those of its text encoders that are T5."""
        return tuple(encoder for encoder in self.text_encoders if encoder.kind == "t5")

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
