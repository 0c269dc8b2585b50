"""Predict from files alone the warnings of a run once its model is loaded, for dry runs."""

from __future__ import annotations

from collections.abc import Sequence

from coinage.checks.memory import fitted, free_memory, free_memory_problem
from coinage.checks.plan import Plan
from coinage.errors import CoinageError, Findings, Problem
from coinage.models.facts import FACTS
from coinage.models.prediction import prediction_of
from coinage.models.vocabulary import read_vocabularies
from coinage.optim.reach import rate_problem


def forecast(plans: Sequence[Plan]) -> Findings:
    """Return warnings about the schedule, the learning rates and the GPU's memory.

    Args:
        plans: of words that train side by side.
    """
    import torch

    findings = Findings()
    schedule = _schedule_problem(plans[0])
    if schedule:
        findings.warnings.append(schedule)
    for plan in plans:
        _judge_rate(plan, f"{plan.config.word.token}: " if len(plans) > 1 else "", findings)
    if torch.cuda.is_available():
        device = torch.device("cuda")
        plans, lines = fitted(plans, free_memory(device))
        findings.notes += lines
        memory = free_memory_problem(plans, device)
        if memory:
            findings.warnings.append(memory)
    return findings


def _schedule_problem(plan: Plan) -> Problem | None:
    """Find `--zero_terminal_snr` on a model that predicts the noise, as far as its settings say so."""
    model = plan.config.model
    if not model.zero_terminal_snr or prediction_of(model) != "epsilon":
        return None
    what = "--zero_terminal_snr needs a v-prediction model"
    hint = "add --v_parameterization if the model does, or leave out --zero_terminal_snr"
    return Problem(what, hint=hint)


def _judge_rate(plan: Plan, prefix: str, findings: Findings) -> None:
    """Compare the learning rate with the lengths of the model's words, which are read without the model."""
    config = plan.config
    try:
        vocabularies = list(read_vocabularies(config.model).values())
        learns_in = FACTS[config.model.family].learns_in(config.word.train_encoders)
        words = vocabularies[learns_in.index(True)]
    except CoinageError as error:
        findings.note(f"{prefix}the learning rate was not checked: {error.problems[0].what}")
        return
    width, length = words.table.shape[1], float(words.norms.mean())
    steps = config.word.steps_of(plan.steps)
    problem = rate_problem(config.optim, steps, width, length)
    if problem:
        what = f"{prefix}{problem.what}"
        findings.warnings.append(Problem(what, problem.where, problem.hint))
