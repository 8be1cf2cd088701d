"""Switching models as the command line and the operator's listener do it: each with its entry."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from proxy.config.units import SPAN, Quantity
from proxy.core.policy.switches import Switch, check_name, switched
from proxy.state.home import Entry, Home

_LONGEST: Final = 300
"""Characters of an entry's subject."""


async def switch(
    home: Home, model: str, to: str, span: float | None, *, by: str, now: float
) -> tuple[Switch, Entry]:
    """`model` is served by `to` for `span` seconds from `now`, or until it is undone.

    Raises ValueError for a wrong name, and StateError.
    """
    made = switched(model, to, span, by=by, now=now)
    lasting = "" if span is None else f" for {Quantity(SPAN).text(span)}"
    entry = Entry(now, by, "model.set", f"{model} -> {to}{lasting}")
    await home.save_switch(made, entry)
    return made, entry


async def undo(
    home: Home,
    models: Collection[str] | None,
    *,
    known: Iterable[Switch],
    by: str,
    now: float,
) -> tuple[int, Entry]:
    """The switches of `models`, or all, are no more: how many were in effect.

    `known` are those there were as far as is known here: those of them that had expired do not
    count. Raises ValueError for a wrong name, and StateError.
    """
    for model in models or ():
        check_name(model)
    subject = "all models" if models is None else ", ".join(models)
    if len(subject) > _LONGEST:
        subject = subject[:_LONGEST] + "…"
    entry = Entry(now, by, "model.reset", subject)
    over = [one for one in known if not one.holds(now) and (models is None or one.model in models)]
    count = await home.drop_switches(models, entry)
    return max(0, count - len(over)), entry
