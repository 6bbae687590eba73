"""What is minimised: one function for each thing a network can be taught."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100
"""Target of a token that is not judged: a special token, or a word's later pieces."""


def classification_loss(
    logits: Tensor, targets: Tensor, *, smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy, (): logits (n, labels), targets (n,) int64; IGNORED targets do not count.

    Source of the smoothing: Szegedy et al. 2016.
    """
    return functional.cross_entropy(
        logits, targets, weight=class_weights, ignore_index=IGNORED, label_smoothing=smoothing
    )


def imitation_loss(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Divergence of the softened answers, (); both logits (n, labels).

    Scaled by the square of the temperature, so that its weight does not depend on it.
    Source: Hinton, Vinyals and Dean 2015.
    """
    soft = functional.log_softmax(student / temperature, dim=-1)
    target = functional.log_softmax(teacher / temperature, dim=-1)
    return functional.kl_div(soft, target, log_target=True, reduction="batchmean") * temperature**2


def token_states_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference of token vectors, (): both (batch, tokens, hidden); padding does not count.

    Each is normalised first, so that the deeper layers' larger values do not rule.
    Source: Jiao et al., TinyBERT, 2020; the normalisation is that of Sun et al., Patient distillation, 2019.
    """
    difference = (functional.normalize(student, dim=-1) - functional.normalize(teacher, dim=-1)).square().sum(-1)
    real = mask.to(difference.dtype)
    return (difference * real).sum() / real.sum()


def attention_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Divergence of the attention of each token, averaged over the heads, ().

    Shapes (batch, heads, tokens, tokens); heads may differ in number. Source: after Wang et al., MiniLM, 2020.
    """
    ours, theirs = student.mean(1), teacher.mean(1)  # (batch, tokens, tokens)
    real = mask.to(ours.dtype)
    divergence = (theirs * (theirs.clamp_min(1e-9).log() - ours.clamp_min(1e-9).log())).sum(-1)
    return (divergence * real).sum() / real.sum()


def contrastive_loss(queries: Tensor, passages: Tensor, *, scale: float = 20.0) -> Tensor:
    """Each query must find its own passage among all of the batch, ().

    ``queries`` is (n, dim), ``passages`` (n or more, dim): row i belongs to query i, further rows are negatives.
    Source: Henderson et al. 2017 (multiple negatives ranking).
    """
    similarity = functional.normalize(queries, dim=-1) @ functional.normalize(passages, dim=-1).T * scale
    return functional.cross_entropy(similarity, torch.arange(len(queries)))


def pair_similarity_loss(first: Tensor, second: Tensor, same: Tensor) -> Tensor:
    """Cosines of pairs against 1 (same label) or 0, (); Source: Tunstall et al., SetFit, 2022."""
    return functional.mse_loss(functional.cosine_similarity(first, second, dim=-1), same)
