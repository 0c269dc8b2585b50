"""Records as runs leave them: curves with noise, small pictures that change with the steps.

`python -m tests.report.samples FOLDER` writes their pages, to look at.
"""

import base64
import io
import math
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

from coinage.report.comparison import render_comparison
from coinage.report.page import render_report
from coinage.report.record import Curves, PreviewPrompt, Record, Row, Shot, Tool
from coinage.report.record import Image as Photo

BANDS = [(0, 250), (250, 500), (500, 750), (750, 1000)]
NEAR = ["moon", "planet", "sphere", "lunar", "crater"]
THEN = ["thing", "object", "item", "stuff", "piece"]


def rng_of(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - no secret


def picture(
    progress: float, hue: int, *, side: int = 192, kind: str = "JPEG", seed: int = 0
) -> str:
    """A data URL: a striped ball that comes out of the fog as training goes on."""
    rng = rng_of(seed)
    image = Image.new("RGB", (side, side), (205, 208, 214))
    draw = ImageDraw.Draw(image)
    for _ in range(int(30 * (1 - progress))):
        x, y, r = rng.random() * side, rng.random() * side, side * rng.uniform(0.05, 0.25)
        draw.ellipse(
            (x - r, y - r, x + r, y + r), fill=tuple(rng.randrange(120, 220) for _ in range(3))
        )
    r, c = side * (0.12 + 0.26 * progress), side / 2 + side * 0.1 * (1 - progress)
    tone = tuple(
        int(90 + 120 * (0.5 + 0.5 * math.cos(math.radians(hue + shift)))) for shift in (0, 120, 240)
    )
    draw.ellipse((c - r, c - r, c + r, c + r), fill=tone)
    for i in range(int(1 + 5 * progress)):
        y = c - r + (i + 0.5) * 2 * r / 6
        half = math.sqrt(max(r * r - (y - c) ** 2, 0))
        draw.line((c - half, y, c + half, y), fill=(250, 250, 250), width=max(1, int(3 * progress)))
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **({"quality": 80} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def curves(
    rows: int, steps: int, *, done: int, seed: int = 0, speed: float = 1.0, length: float = 0.39
) -> Curves:
    """Losses that scatter as they do at batch size 2, angles that rise and level off."""
    rng = rng_of(seed)
    found = Curves(bands=[])
    every = max(1, steps // 150)
    for step in range(every, done + 1, every):
        far = 1 - math.exp(-3 * speed * step / steps)
        draws = [0.11 * math.exp(rng.gauss(0, 0.75)) * (1.25 - 0.3 * far) for _ in range(every + 1)]
        found.step.append(step)
        found.loss.append(sum(draws) / len(draws))
        found.low.append(min(draws))
        found.high.append(max(draws))
        found.rate.append(
            5e-4 * min(1, step / (0.1 * steps)) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        )
        levels = [0.31, 0.13, 0.06, 0.022]
        found.bands.append(
            [
                None if rng.random() < 0.3 else v * math.exp(rng.gauss(0, 0.25)) * (1.1 - 0.2 * far)
                for v in levels
            ]
        )
        found.norms.append([length * (1 + (0.5 + 0.12 * i) * far) for i in range(rows)])
        found.angles.append([(38 + 9 * (i % 4)) * far for i in range(rows)])
    return found


def shots(steps: int, done: int, every: int, prompts: int, plain: int, **how: object) -> list[Shot]:
    """Previews from step 0 on; the prompt without the word stays as it is."""
    found = []
    for step in range(0, done + 1, every):
        far = 1 - math.exp(-3 * step / steps)
        found.append(
            Shot(
                step=step,
                pictures=[
                    picture(0.5 if i == plain else far, 40 + 70 * i, seed=i, **how)
                    for i in range(prompts)
                ],
            )
        )
    return found


def photos(count: int, token: str) -> list[Photo]:
    texts = [
        "a photo of {}",
        "{} over the sea at night, long exposure",
        "a drawing of {}, pencil on paper",
        "{}",
    ]
    found = []
    for i in range(count):
        before, after = texts[i % 4].split("{}")
        parts = [part for part in ((before, False), (token, True), (after, False)) if part[0]]
        marks = ["held out"] if i % 9 == 8 else ["enlarged 1.4x"] if i == 3 else []
        thumbnail = picture(1.0, 25 * i, side=128, seed=i)
        photo = Photo(
            name=f"photo_{i:03}.jpg",
            thumbnail=thumbnail,
            caption=parts,
            size_wh=(1024, 768 + 64 * (i % 3)),
            bucket_wh=(576, 448),
            repeats=1 + (i == 0) * 4,
            marks=marks,
        )
        found.append(photo)
    return found


def rows_of(keys: list[str], count: int, seed: int = 0) -> list[Row]:
    rng = rng_of(seed)

    def near(words: list[str], top: float) -> list[tuple[str, float]]:
        return [(word, round(top * 0.93**i - rng.random() / 50, 3)) for i, word in enumerate(words)]

    return [
        Row(key=key, number=i + 1, first=near(THEN, 0.98), now=near(NEAR, 0.62))
        for key in keys
        for i in range(count)
    ]


TOOLS = [
    Tool(tool="ComfyUI", loads=True, same=True, difference=2.1e-7, write="embedding:zibu", why=""),
    Tool(tool="AUTOMATIC1111", loads=True, same=True, difference=2.1e-7, write="zibu", why=""),
    Tool(
        tool="Forge",
        loads=True,
        same=True,
        difference=3.0e-7,
        write="zibu",
        why="Rename the file and the word changes with it.",
    ),
    Tool(
        tool="diffusers",
        loads=True,
        same=True,
        difference=0.0,
        write="zibu",
        why='Pass token="zibu".',
    ),
    Tool(
        tool="InvokeAI",
        loads=True,
        same=False,
        difference=0.034,
        write="<zibu>",
        why="It takes the first vector only.",
    ),
    Tool(
        tool="Easy Diffusion",
        loads=False,
        same=False,
        difference=None,
        write="",
        why="It does not look at .png files; convert it to .safetensors with coinage.",
    ),
]
SETTINGS = [
    (
        "model",
        [
            ("--pretrained_model_name_or_path", "models/sd15.safetensors"),
            ("--mixed_precision", "bf16"),
        ],
    ),
    (
        "word",
        [("--token_string", "zibu"), ("--init_word", "thing"), ("--num_vectors_per_token", "2")],
    ),
    ("data", [("--dataset_config", "dataset.toml"), ("--cache_latents", "on")]),
    (
        "training",
        [
            ("--max_train_steps", "300"),
            ("--learning_rate", "5e-4"),
            ("--lr_scheduler", "cosine"),
            ("--seed", "7"),
        ],
    ),
]
COMMAND = (
    "coinage train --pretrained_model_name_or_path=models/sd15.safetensors"
    " --dataset_config=dataset.toml --token_string=zibu"
    " --init_word=thing --num_vectors_per_token=2 --output_dir=output --output_name=zibu-moon"
    " --max_train_steps=300"
    " --learning_rate=5e-4 --lr_scheduler=cosine --mixed_precision=bf16 --cache_latents --seed=7"
)


def finished(
    *,
    name: str = "zibu-moon",
    token: str = "zibu",  # noqa: S107
    steps: int = 300,
    seed: int = 0,
    speed: float = 1.0,
) -> Record:
    """A run of Stable Diffusion 1 that went well, with two vectors."""
    prompts = [
        PreviewPrompt(text=f"a photo of {token} over the sea", seed=1),
        PreviewPrompt(text="a photo of a thing over the sea", seed=1, of=0),
        PreviewPrompt(text=f"{token}, pencil drawing", seed=2),
        PreviewPrompt(text=f"a cake in the shape of {token}", seed=3),
    ]
    return Record(
        coinage="0.1.0",
        name=name,
        token=token,
        family="Stable Diffusion 1.x",
        model="sd15.safetensors",
        status="finished",
        device="NVIDIA H100, bf16",
        began="2026-03-01T12:04:10",
        written="2026-03-01T12:16:13",
        seconds=723.4,
        images_learned=2400,
        step=steps,
        total_steps=steps,
        epoch=25,
        total_epochs=25,
        command=COMMAND.replace("zibu", token),
        settings=SETTINGS,
        image_count=28,
        images=photos(28, token),
        curves=curves(2, steps, done=steps, seed=seed, speed=speed),
        bands=BANDS,
        rows=rows_of(["emb_params"], 2, seed),
        vocabulary={"emb_params": (0.34, 0.39, 0.43)},
        measured=[
            (step, 0.125 - 0.012 * (1 - math.exp(-step / 90)) + seed / 900)
            for step in range(0, steps + 1, steps // 6)
        ],
        prompts=prompts,
        shots=shots(steps, steps, steps // 6, 4, plain=1),
        tools=TOOLS,
        file=f"output/{name}.safetensors",
        usage=[
            f"ComfyUI: models/embeddings; write embedding:{token}",
            f"AUTOMATIC1111: embeddings; write {token}",
            f'diffusers: pipe.load_textual_inversion("output/{name}.safetensors", token="{token}")',
        ],
    )


def training() -> Record:
    """A run of SDXL half way, two vectors in each of two text encoders, with a warning."""
    steps, done = 1600, 640
    prompts = [
        PreviewPrompt(text="a photo of mychar, smiling", seed=1),
        PreviewPrompt(text="a photo of a girl, smiling", seed=1, of=0),
        PreviewPrompt(text="mychar riding a bicycle, watercolour", seed=2),
        PreviewPrompt(text="a girl riding a bicycle, watercolour", seed=2, of=2),
        PreviewPrompt(text="portrait of mychar by candle light", seed=3),
        PreviewPrompt(text="portrait of a girl by candle light", seed=3, of=4),
    ]
    found = curves(4, steps, done=done, seed=3, length=0.4)
    found.norms = [[a, b, 1.8 * c, 1.8 * d] for a, b, c, d in found.norms]
    return Record(
        coinage="0.1.0",
        name="mychar_xl",
        token="mychar",
        family="Stable Diffusion XL",
        model="sd_xl_base_1.0.safetensors",
        device="NVIDIA RTX 4070, bf16",
        began="2026-03-02T20:11:00",
        written="2026-03-02T20:27:44",
        seconds=1004.0,
        images_learned=1280,
        step=done,
        total_steps=steps,
        epoch=2,
        total_epochs=5,
        command="coinage train ...",
        image_count=12,
        images=photos(12, "mychar"),
        settings=SETTINGS[1:],
        curves=found,
        bands=BANDS,
        rows=rows_of(["clip_l", "clip_g"], 2),
        vocabulary={"clip_l": (0.34, 0.39, 0.43), "clip_g": (0.56, 0.66, 0.74)},
        measured=[(0, 0.121), (320, 0.117), (640, 0.1145)],
        prompts=prompts,
        shots=shots(steps, done, 160, 6, plain=1),
        warnings=[
            (
                "photo_003.jpg is enlarged 1.4 times\n  --> train/photo_003.jpg\n"
                "hint: use larger images or a smaller --resolution"
            )
        ],
    )


def failed() -> Record:
    """A run that broke early: many vectors, no previews, nothing learned about tools."""
    problem = "the loss is not finite at step 42\n  --> batch 2: photo_007.jpg\n"
    problem += "hint: a lower --learning_rate, or --mixed_precision bf16"
    return Record(
        name="zibu-hot",
        token="zibu",
        family="Stable Diffusion 2.x",
        model="sd21",
        status="failed",
        problem=problem,
        step=41,
        total_steps=1000,
        total_epochs=40,
        device="cpu, fp16",
        seconds=88.0,
        images_learned=82,
        curves=curves(8, 1000, done=41, seed=5, speed=3),
        rows=rows_of(["emb_params"], 8),
        bands=BANDS,
        vocabulary={"emb_params": (0.34, 0.39, 0.43)},
        command="coinage train",
        settings=[("training", [("--learning_rate", "0.5"), ("--seed", "1")])],
    )


def compared() -> list[Record]:
    """Three runs of one word, and one of another length that failed."""
    runs = [
        finished(),
        finished(name="zibu-slow", seed=1, speed=0.4),
        finished(name="zibu-long", steps=600, seed=2, speed=1.6),
    ]
    runs[1].settings = [
        *SETTINGS[:3],
        ("training", [("--max_train_steps", "300"), ("--learning_rate", "1e-4"), ("--seed", "7")]),
    ]
    runs[2].settings = [
        *SETTINGS[:3],
        ("training", [("--max_train_steps", "600"), ("--learning_rate", "2e-3"), ("--seed", "7")]),
    ]
    return [*runs, failed()]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for made in (finished(), training(), failed()):
        (folder / f"{made.name}-report.html").write_text(render_report(made), encoding="utf-8")
    (folder / "compare.html").write_text(render_comparison(compared()), encoding="utf-8")
