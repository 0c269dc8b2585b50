"""Names of optimizers and learning-rate schedules, and what they stand for. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from coinage.errors import Problem, did_you_mean


@dataclass(frozen=True, slots=True)
class Entry:
    """An optimizer's class, and arguments that it gets unless the user gives them."""

    path: str  # module.Class
    defaults: tuple[tuple[str, object], ...] = ()
    plainer: bool = False  # asked for with 8-bit or paged state

    @property
    def package(self) -> str:
        """What must be installed."""
        return self.path.partition(".")[0]


NESTEROV = (("momentum", 0.9), ("nesterov", True))
# Names as the reference takes them, in any letter case. 8-bit or paged state saves nothing here: a word has a few thousand
# numbers, and bitsandbytes itself keeps tensors below 4096 values in 32 bit.
OPTIMIZERS = {
    "adamw": Entry("torch.optim.AdamW"),
    **dict.fromkeys(("adamw8bit", "pagedadamw", "pagedadamw8bit", "pagedadamw32bit"), Entry("torch.optim.AdamW", plainer=True)),
    "directional": Entry("coinage.training.directional.Directional"),
    "lion": Entry("lion_pytorch.Lion"),
    **dict.fromkeys(("lion8bit", "pagedlion8bit"), Entry("lion_pytorch.Lion", plainer=True)),
    "sgdnesterov": Entry("torch.optim.SGD", NESTEROV),
    "sgdnesterov8bit": Entry("torch.optim.SGD", NESTEROV, plainer=True),
    **dict.fromkeys(("dadaptation", "dadaptadampreprint"), Entry("dadaptation.experimental.DAdaptAdamPreprint")),
    "dadaptadanip": Entry("dadaptation.experimental.DAdaptAdanIP"),
    **{f"dadapt{name.lower()}": Entry(f"dadaptation.DAdapt{name}") for name in ("AdaGrad", "Adam", "Adan", "Lion", "SGD")},
    "prodigy": Entry("prodigyopt.Prodigy"),
    "adafactor": Entry("transformers.optimization.Adafactor"),
    **{f"{name.lower()}schedulefree": Entry(f"schedulefree.{name}ScheduleFree") for name in ("RAdam", "AdamW", "SGD")},
}
SCHEDULES = (
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "cosine_with_min_lr",
    "cosine_warmup_with_min_lr", "inverse_sqrt", "warmup_stable_decay", "piecewise_constant",
)  # fmt: skip
EXTRAS = ("lion_pytorch", "dadaptation", "prodigyopt", "schedulefree", "bitsandbytes", "pytorch_optimizer")


def find_optimizer(name: str) -> Entry:
    """What a name stands for: one of the table, `module.Class`, or a class of torch.optim as it is spelt."""
    return OPTIMIZERS.get(name.lower()) or Entry(name if "." in name else f"torch.optim.{name}")


def optimizer_problems(name: str) -> list[Problem]:
    """Whether the package of an optimizer is there."""
    package = find_optimizer(name).package
    if find_spec(package):
        return []
    hint = f"pip install {package.replace('_', '-')}"
    if package in EXTRAS:
        hint = f'pip install "coinage[optimizers]", or {hint}'
    return [Problem(f"--optimizer_type {name} needs the package {package}, which is not installed", hint=hint)]


def warmup_problems(name: str, warmup: float) -> list[Problem]:
    """Whether an optimizer bears a first step at rate 0: D-Adaptation's SGD divides by what it has moved."""
    if not warmup or find_optimizer(name).path != "dadaptation.DAdaptSGD":
        return []
    what = f"--lr_warmup_steps: {name} cannot begin at a rate of 0"
    return [Problem(what, hint="leave out --lr_warmup_steps, or use --optimizer_type DAdaptAdam")]


def norm_problems(name: str, mode: str) -> list[Problem]:
    """Whether the lengths of the rows are an optimizer's own affair: a schedule-free one trains at another point than it saves."""
    if mode == "none" or find_optimizer(name).package != "schedulefree":
        return []
    return [Problem(f"--norm_mode {mode} is not for {name}", hint="leave it out, or use --optimizer_type AdamW")]


def schedule_problems(name: str, warmup: float, own_class: str, relative_step: bool) -> list[Problem]:
    """Whether a schedule is known and goes with a warm-up.

    Args:
        name: of `--lr_scheduler`.
        warmup: of `--lr_warmup_steps`.
        own_class: of `--lr_scheduler_type`; it wins over the name.
        relative_step: whether the optimizer is an Adafactor that finds its own rate.
    """
    problems = []
    if own_class:
        return [Problem("--lr_warmup_steps does nothing with --lr_scheduler_type", hint="leave one of them out")] if warmup else []
    if name == "adafactor" and not relative_step:
        problems.append(Problem("--lr_scheduler adafactor is for --optimizer_type AdaFactor with relative_step=True"))
    elif name == "reduce_lr_on_plateau":
        problems.append(Problem("--lr_scheduler reduce_lr_on_plateau waits for a measure that training has none of", hint="use cosine"))
    elif name not in (*SCHEDULES, "adafactor"):
        hint = did_you_mean(name, SCHEDULES) or f"one of {', '.join(SCHEDULES)}"
        problems.append(Problem(f"--lr_scheduler {name} is not known", hint=hint))
    if warmup and (name in ("constant", "adafactor") or relative_step):
        hint = "use constant_with_warmup" if name == "constant" else "leave out --lr_warmup_steps"
        problems.append(Problem(f"--lr_scheduler {name} has no warm-up", hint=hint))
    return problems
