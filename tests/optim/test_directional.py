"""The optimizer that turns rows and leaves their lengths alone."""

import math

import pytest
import torch

from coinage.optim.directional import Directional, tangent


def turned(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return (
        torch.nn.functional.cosine_similarity(before.double(), after.double(), dim=1)
        .clamp(-1, 1)
        .acos()
    )


@pytest.mark.parametrize("rowwise", [False, True])
def test_the_length_stays_and_the_first_step_is_the_angle(*, rowwise: bool) -> None:
    torch.manual_seed(0)
    rows = torch.nn.Parameter(torch.randn(3, 16))
    before = rows.detach().clone()
    optimizer = Directional([rows], lr=0.04, rowwise=rowwise)
    rows.grad = torch.randn(3, 16) * torch.tensor([[1e-6], [1.0], [1e6]])
    down = -tangent(rows.grad, before / before.norm(dim=1, keepdim=True))
    optimizer.step()
    torch.testing.assert_close(rows.detach().norm(dim=1), before.norm(dim=1), rtol=1e-6, atol=0)
    assert turned(before, rows.detach()).tolist() == pytest.approx(
        [math.atan(0.04)] * 3, rel=1e-3 if rowwise else 0.1
    ), "whatever the gradient's size"
    assert ((rows.detach() - before) * down).sum(dim=1).min() > 0, "downhill"


def test_it_finds_the_best_direction() -> None:
    torch.manual_seed(1)
    goal = torch.nn.functional.normalize(torch.randn(4, 32), dim=1)
    rows = torch.nn.Parameter(torch.randn(4, 32))
    lengths = rows.detach().norm(dim=1)
    optimizer = Directional([rows], lr=0.05)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 200)
        optimizer.zero_grad()
        (-(goal * rows).sum(dim=1) / rows.norm(dim=1)).sum().backward()
        optimizer.step()
    assert turned(goal, rows.detach()).max() < 0.1
    torch.testing.assert_close(rows.detach().norm(dim=1), lengths, rtol=1e-5, atol=0)


def test_noise_moves_it_a_quarter_as_far_as_agreement() -> None:
    torch.manual_seed(2)
    rows = torch.nn.Parameter(torch.randn(64, 256))
    optimizer = Directional([rows], lr=0.01)
    moved = []
    for _ in range(60):
        before = rows.detach().clone()
        rows.grad = torch.randn(64, 256)
        optimizer.step()
        moved.append(float(turned(before, rows.detach()).mean()))
    assert 0.2 < sum(moved[30:]) / 30 / 0.01 < 0.27


def test_the_pull_leads_back_to_the_start() -> None:
    torch.manual_seed(3)
    angles = []
    for kappa in (0.0, 0.5):
        torch.manual_seed(4)
        rows = torch.nn.Parameter(torch.randn(16, 64))
        before = rows.detach().clone()
        optimizer = Directional([rows], lr=0.05, kappa=kappa)
        for _ in range(300):
            rows.grad = torch.randn(16, 64)
            optimizer.step()
        angles.append(float(turned(before, rows.detach()).mean()))
    assert angles[1] < 0.5 * angles[0]


def test_a_length_that_is_set_is_taken_and_rows_of_zeros_stay() -> None:
    rows = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    optimizer = Directional([rows], lr=0.01, length=0.4)
    rows.grad = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    optimizer.step()
    assert rows.detach().norm(dim=1).tolist() == pytest.approx([0.4, 0.0])


def test_a_state_goes_on_to_the_bit() -> None:
    torch.manual_seed(5)
    gradients = [torch.randn(2, 8) for _ in range(6)]
    start = torch.randn(2, 8)

    def run(first: int, rows: torch.nn.Parameter, optimizer: Directional, last: int) -> None:
        for gradient in gradients[first:last]:
            rows.grad = gradient.clone()
            optimizer.step()

    whole = torch.nn.Parameter(start.clone())
    run(0, whole, Directional([whole], kappa=0.1), 6)
    half = torch.nn.Parameter(start.clone())
    optimizer = Directional([half], kappa=0.1)
    run(0, half, optimizer, 3)
    again = torch.nn.Parameter(half.detach().clone())
    other = Directional([again], kappa=0.1)
    other.load_state_dict(optimizer.state_dict())
    run(3, again, other, 6)
    assert torch.equal(again.detach(), whole.detach())


@pytest.mark.parametrize(
    "wrong", [{"lr": -1.0}, {"kappa": -1.0}, {"betas": (0.9, 1.0)}, {"length": 0.0}]
)
def test_arguments_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        Directional([torch.nn.Parameter(torch.ones(1, 2))], **wrong)  # type: ignore[arg-type]
