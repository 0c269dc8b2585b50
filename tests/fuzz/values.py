"""Values for every flag: what people write, what they mistype, and what must not break anything."""

import math
import random
from collections.abc import Sequence

from coinage.settings.flags import FLAGS, Flag
from tests.cli.flag_effects import EFFECTS

INTEGERS = (
    "-1",
    "0",
    "1",
    "2",
    "3",
    "7",
    "75",
    "1000",
    "-2147483648",
    "2147483648",
    "9223372036854775808",
    "1" + "0" * 30,
)
NO_INTEGERS = ("1.5", "nan", "inf", "abc", "", " ", "1e3", "0x10", "--1", "1,2", "9" * 5000)
FLOATS = (
    "0",
    "1",
    "0.5",
    "-1",
    "-0.0",
    "1e-300",
    "1e39",
    "1e300",
    "0.1",
    "1000",
    "1e-45",
    "-1e300",
)
NO_NUMBERS = ("nan", "inf", "-inf", "1e400", "NaN", "-nan", "abc", "", " ", "0,5", "1..2", "5%%")
RATIOS = ("10%", "100%", "-10%", "0.5", "nan%", "1e400%", "99999999999%")
TEXTS = (
    "", " ", "none", "None", "auto", "true", "zibu", "a b", "-1", "--help", "--seed=1", "%s",
    "{}", "*", "~", "~/x", ".", "..",
    "a/b", "x" * 300, "ミ" * 90, "\x1b[2J", "a\nb", "é", "\udcff", "/dev/zero", "/dev/null/x",
    "no/such/file.toml",
    "http://127.0.0.1:9/x", "a\\b", "C:\\Users\\x",
    "con", "owner/name", "0", "1,2", "64", "64,64", "0,0", "[]", "a=b", "import os",
    "x.safetensors", "builtins.print", "os.system",
)  # fmt: skip
ARGUMENTS = (
    "", "a", "=", "a=", "=1", "weight_decay=0.01", "weight_decay=nan", "weight_decay=abc",
    "weight_decay=-1", "betas=0.9,0.99",
    "betas=(0.9,0.99)", "betas=1", "eps=0", "lr=1", "lr=nan", "capturable=True",
    "differentiable=True", "foreach=5",
    "nosuch=5",
        "weight_decay=0.01 betas=0.9,0.99", "weight_decay=0.01,", "gamma=0.5", "step_size=0", "T_max=0",
    "milestones=[2,4] gamma=0.5",
    "lr_lambda=1", "amsgrad=true", "maximize=None", "params=[]", "self=1",
    "weight_decay=__import__('os')", "d_coef=-1", "--help",
    "x" * 300,
)  # fmt: skip
OPTIMIZERS = (
    "AdamW", "adamw8bit", "Directional", "Lion", "SGDNesterov", "AdaFactor", "Prodigy",
    "DAdaptation", "DAdaptSGD", "AdamWScheduleFree",
    "SGD",
        "RMSprop", "Adagrad", "Rprop", "LBFGS", "SparseAdam", "Optimizer", "Muon",
        "pytorch_optimizer.AdaHessian", "pytorch_optimizer.LOMO",
    "pytorch_optimizer.CAME", "builtins.print", "torch.nn.Linear", "os.system", "nosuch.Class", "",
)  # fmt: skip
SCHEDULES = (
    "constant", "cosine", "linear", "polynomial", "inverse_sqrt", "warmup_stable_decay",
    "piecewise_constant", "cosine_with_restarts",
    "adafactor", "reduce_lr_on_plateau", "cosin", "",
)  # fmt: skip
SCHEDULE_CLASSES = (
    "StepLR",
    "CosineAnnealingLR",
    "ReduceLROnPlateau",
    "ExponentialLR",
    "LambdaLR",
    "OneCycleLR",
    "builtins.print",
    "x.y",
    "",
)
CHOSEN = {
    "--optimizer_type": OPTIMIZERS,
    "--lr_scheduler": SCHEDULES,
    "--lr_scheduler_type": SCHEDULE_CLASSES,
}
OF_A_KIND = {
    "switch": (),
    "int": INTEGERS + NO_INTEGERS,
    "float": FLOATS + NO_NUMBERS,
    "ratio": FLOATS + NO_NUMBERS + RATIOS,
    "list": ARGUMENTS,
    "str": TEXTS,
    "path": TEXTS,
}
# What reaches beyond the folder of a test, or waits for a network, is left to tests of its own.
LEFT_OUT = {
    "--huggingface_repo_id",
    "--resume_from_huggingface",
    "--torch_compile",
    "--log_with",
    "--ddp_timeout",
}
# Where it means something
BELOW_ZERO = {
    "--adaptive_noise_scale",
    "--seed",
    "--sample_every_n_steps",
    "--sample_every_n_epochs",
}
LARGEST = 2**63


def values_of(flag: Flag) -> tuple[str, ...]:
    """What is tried for a flag."""
    if flag.name in CHOSEN:
        return (*CHOSEN[flag.name], *TEXTS)
    if flag.choices:
        return (*map(str, flag.choices), str(flag.choices[0]).upper(), *TEXTS[:12])
    return OF_A_KIND[flag.kind]


def flags() -> list[Flag]:
    """The flags that are tried."""
    return [flag for flag in FLAGS if flag.name not in LEFT_OUT]


def means_nothing(flag: Flag, value: str) -> bool:
    """Return whether a number can mean nothing for any flag of its kind.

    That is no number, not finite, below zero, or beyond any count.
    """
    if flag.kind not in ("int", "float", "ratio"):
        return False
    try:
        number = float(value.removesuffix("%")) if flag.kind == "ratio" else float(value)
    except ValueError:
        return value.strip().lower() not in ("", "none")  # which may be taken for unset
    if flag.kind == "int" and not number.is_integer():
        return True
    return (
        not math.isfinite(number)
        or (number < 0 and flag.name not in BELOW_ZERO)
        or number >= LARGEST
    )


def sensible() -> list[str]:
    """Groups of flags as people give them, from the table of what flags do; places stand in braces."""
    return [
        f"{row.beside} {row.given}"
        for row in EFFECTS.values()
        if row.given and not any(name in row.given for name in LEFT_OUT)
    ]


def random_words(rng: random.Random, groups: Sequence[str]) -> list[str]:
    """Flags of a random command line; the places that they name stand in braces."""
    words: list[str] = []
    for _ in range(rng.randint(0, 3)):
        words += rng.choice(groups).split()
    for _ in range(rng.randint(0, 3)):
        flag = rng.choice(flags())
        values = values_of(flag)
        if not values:
            words.append(flag.name)
        elif flag.kind == "list":
            words += [flag.name, *rng.sample(values, rng.randint(0, 3))]
        else:
            value = rng.choice(values)
            words += [f"{flag.name}={value}"] if rng.random() < 0.8 else [flag.name, value]
    if rng.random() < 0.2:
        word = rng.choice(words) if words else "--seed"
        at = rng.randrange(len(word) + 1)
        words.append(word[:at] + rng.choice(("", "x", "=", "-", " ", "\t")) + word[at + 1 :])
    if rng.random() < 0.1:
        words.append(rng.choice(TEXTS))
    rng.shuffle(words) if rng.random() < 0.1 else None
    return words
