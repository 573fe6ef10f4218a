"""The focal loss against what is known of it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainer.config import TrainConfig
from trainer.losses import FocalLoss, build_loss

ROW = st.lists(st.floats(-30, 30, width=32), min_size=3, max_size=3)
LOGITS = st.lists(ROW, min_size=1, max_size=6).map(torch.tensor)


def labels_for(logits):
    return torch.arange(len(logits)) % 3


@given(LOGITS)
def test_without_focus_it_is_the_cross_entropy(logits):
    labels = labels_for(logits)
    expected = nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(FocalLoss(1.0, 0.0)(logits, labels), expected)


@given(LOGITS, st.floats(0.5, 4))
def test_it_is_never_more_than_the_cross_entropy_and_never_negative(logits, gamma):
    labels = labels_for(logits)
    loss = FocalLoss(1.0, gamma)(logits, labels)
    assert 0 <= loss <= nn.functional.cross_entropy(logits, labels) + 1e-6


def test_it_is_what_the_paper_says():
    # p = (0.25, 0.25, 0.5): -2 * 0.5^2 * log 0.5 and -2 * 0.75^2 * log 0.25, their mean.
    logits = torch.tensor([[0.25, 0.25, 0.5]] * 2).log()
    loss = FocalLoss(alpha=2.0, gamma=2.0)(logits, torch.tensor([2, 0]))
    assert loss.item() == pytest.approx((0.5 * 0.6931472 + 1.125 * 1.3862944) / 2)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_a_sure_answer_has_a_finite_slope(gamma):
    logits = torch.tensor([[200.0, -200.0, 0.0]], requires_grad=True)
    for label in (0, 1):
        FocalLoss(1.0, gamma)(logits, torch.tensor([label])).backward()
    assert logits.grad.isfinite().all()


def test_what_is_no_loss_is_refused():
    for alpha, gamma in ((0.0, 2.0), (1.0, -1.0), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="alpha"):
            FocalLoss(alpha, gamma)


def test_the_configuration_chooses_the_loss():
    focal = build_loss(TrainConfig(loss="focal", label_smoothing=0, focal_gamma=3))
    assert isinstance(focal, FocalLoss)
    assert focal.gamma == 3
    assert build_loss(TrainConfig(label_smoothing=0.1)).label_smoothing == 0.1
