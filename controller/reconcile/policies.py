"""How far the loop may go by itself: said by operators, for a model or for all."""

from __future__ import annotations

from controller.domain import policy
from controller.domain.policy import Policy
from controller.errors import NotFound, UserError
from controller.reconcile.context import Context


def of(context: Context, model: str) -> Policy:
    """What holds for a model, by its name."""
    texts = [said(context, name) for name in (model, "")]
    return policy.effective(texts, auto_approve=context.settings.auto_approve)


def said(context: Context, model: str) -> str:
    """What was said for just this model, or for all; empty: nothing."""
    return context.store.setting(policy.key_of(model)) or ""


def say(context: Context, model: str, text: str) -> Policy:
    """Set it for a model's name, or for all models (empty); an empty text takes it back.

    Returns:
        What holds from now on.

    Raises:
        NotFound: no model of that name is registered.
        UserError: there is no such policy.
    """
    known = [each.value for each in Policy]
    if text and text not in known:
        raise UserError(f"a policy is one of {', '.join(known)}, not '{text}'")
    if model and not context.store.models.find(name=model):
        raise NotFound(f"no model '{model}' is registered; see: fitment model list")
    before = of(context, model)
    with context.store.transaction():
        context.store.set_setting(policy.key_of(model), text)
        after = of(context, model)
        details = {"model": model or "all", "before": before.value, "after": after.value,
                   "said": text or "as all models"}  # fmt: skip
        context.record("operator", "policy_set", model or "fleet", details)
    return after
