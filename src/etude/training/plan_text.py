"""A plan in words, and the picture of its rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from etude.plots import new_figure, save_figure, text_chart

if TYPE_CHECKING:
    from etude.training.plan import CallbackPlan, NormPlan, Plan
    from etude.training.plan_data import PartPlan

_COLORS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860")
_WIDTH, _HEIGHT = 60, 6
_MOST_NAMES = 8
_MOST_SETTINGS = 58


def sections(plan: Plan) -> list[tuple[str, list[str]]]:
    """The plan as titles with lines of text."""
    return [
        ("plan", [f"{_many(plan.num_epochs, 'epoch')} of {_many(plan.steps_per_epoch, 'step')}{_window(plan)}"]),
        ("data", _data(plan)),
        ("model", _model(plan)),
        ("groups", _groups(plan)),
        ("norms", _norms(plan.norms)),
        ("callbacks", _callbacks(plan.callbacks)),
        ("rates", _chart(plan)),
        ("forecast", _forecast(plan)),
        ("memory", _memory(plan)),
    ]


def draw_rates(plan: Plan, path: Path) -> None:
    """Draw the learning rate of each layer group, and the momentum, over the steps."""
    figure, (rate, momentum) = new_figure(1, 2, width=10, height=3.6)
    rates = plan.rates
    # groups of equal rates share a line, for one would hide the other
    lines = [values for i, values in enumerate(rates.lr) if values not in rates.lr[:i]]
    for i, values in enumerate(lines):
        numbers = [str(number) for number, other in enumerate(rates.lr) if other == values]
        label = f"layer group {numbers[0]}" if len(numbers) == 1 else f"layer groups {', '.join(numbers)}"
        rate.plot(rates.steps, values, color=_COLORS[i % len(_COLORS)], linewidth=2, label=label)
    rate.set(title="learning rate", xlabel="step")
    rate.set_ylim(bottom=0)
    if len(rates.lr) > 1:
        rate.legend(frameon=False)
    momentum.plot(rates.steps, rates.momentum, color=_COLORS[0], linewidth=2)
    momentum.set(title="momentum", xlabel="step")
    save_figure(figure, path)


def seconds_text(seconds: float) -> str:
    """A time as one reads it.

    >>> [seconds_text(x) for x in (0.00042, 0.0123, 2.5, 75.2, 7322)]
    ['0.42 ms', '12.3 ms', '2.5 s', '1 min 15 s', '2 h 2 min']
    """
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _many(count: int, noun: str) -> str:
    plural = {"batch": "batches", "class": "classes"}.get(noun, f"{noun}s")
    return f"{count:,} {noun if count == 1 else plural}"


def _window(plan: Plan) -> str:
    total = f", {_many(plan.num_steps, 'step')} in all"
    return total if plan.accumulate == 1 else f" of {plan.accumulate} batches each{total}"


def _data(plan: Plan) -> list[str]:
    data = plan.data
    lines = [data.description] if data.description else []
    lines.append(f"train: {_part(data.train)}")
    lines.append("no validation" if data.valid is None else f"valid: {_part(data.valid)}")
    if data.classes is not None:
        named = ", ".join(data.classes[:_MOST_NAMES]) + (", ..." if len(data.classes) > _MOST_NAMES else "")
        several = "; a sample may have several" if data.several_labels else ""
        lines.append(f"{_many(len(data.classes), 'class')}: {named}{several}")
    for name, (mean, std) in (data.numbers or {}).items():
        lines.append(f"target {name}: a number, mean {mean:.6g}, standard deviation {std:.4g}")
    if data.windows or data.augment:
        lines.append("in training: " + ", then ".join(part for part in (data.windows, data.augment) if part))
    if plan.phases:
        lines.append(f"training size {', '.join(f'{phase.what} in {phase.epochs}' for phase in plan.phases)}")
    return lines


def _part(part: PartPlan) -> str:
    counted = "" if part.samples is None else f"{_many(part.samples, 'sample')} in "
    return f"{counted}{_many(part.batches, 'batch')} of {part.batch_size}; each sample {part.inputs}"


def _model(plan: Plan) -> list[str]:
    total, frozen = (sum(group.parameters for group in plan.groups), sum(group.frozen for group in plan.groups))
    trained = "all trained" if not frozen else f"{total - frozen:,} trained, {frozen:,} frozen"
    return [
        f"{plan.model}, {total:,} parameters, {trained}",
        f"loss {plan.loss}",
        f"metrics {', '.join(plan.metrics) or 'none'}",
        f"optimizer {plan.optimizer}",
        f"{plan.precision} on {plan.device}: {plan.precision_reason}",
        *([f"evaluates and saves the average of the weights, {plan.average}"] if plan.average else []),
    ]


def _groups(plan: Plan) -> list[str]:
    rows: list[tuple[str, ...]] = [
        ("layer group", "tensors", "parameters", "trained", "first lr", "peak lr", "last lr", "weight decay")
    ]
    for group in plan.groups:
        first, last = group.weight_decay
        rows.append(
            (
                str(group.layer_group),
                str(group.tensors),
                f"{group.parameters:,}",
                "all" if not group.frozen else "frozen" if not group.trainable else f"{group.trainable:,}",
                *(f"{rate:.3g}" for rate in group.lr),
                f"{first:.3g}" if first == last else f"{first:.3g} to {last:.3g}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _norms(norms: Sequence[NormPlan]) -> list[str]:
    """The largest group of norms that do the same by its number, the others by name."""
    if not norms:
        return ["none"]
    kinds = Counter((norm.kind, norm.statistics, norm.affine) for norm in norms).most_common()
    lines = []
    for i, (same, count) in enumerate(kinds):
        names = [norm.name for norm in norms if (norm.kind, norm.statistics, norm.affine) == same]
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        named = f": {', '.join(names[:_MOST_NAMES])}{more}" if i else ""
        lines.append(f"{count} {same[0]}: {_what_it_does(*same[1:])}{named}")
    return lines


def _what_it_does(statistics: str, affine: str) -> str:
    first = {"none": "no running statistics"}.get(statistics, f"statistics {statistics}")
    second = {"none": "no scale and shift", "train": "scale and shift train", "frozen": "scale and shift are frozen"}
    return f"{first}, {second.get(affine, 'one of scale and shift trains')}"


def _callbacks(callbacks: Sequence[CallbackPlan]) -> list[str]:
    if not callbacks:
        return ["none"]
    # a schedule's settings are its curve, which is drawn
    names = [callback.name if callback.sets else _short(callback.settings) for callback in callbacks]
    width = max(map(len, names))
    return [
        f"{i} {name:<{width}}  {_part_taken(callback)}"
        for i, (name, callback) in enumerate(zip(names, callbacks, strict=True), 1)
    ]


def _short(settings: str) -> str:
    settings = settings.removesuffix("()")
    return settings if len(settings) <= _MOST_SETTINGS else f"{settings[: _MOST_SETTINGS - 4]}...)"


def _part_taken(callback: CallbackPlan) -> str:
    if callback.sets:
        return f"sets {' and '.join(callback.sets)} before every step"
    parts = [f"transforms {' and '.join(callback.transforms)}"] if callback.transforms else []
    words = {
        "before_fit": "the fit",
        "after_fit": "the fit",
        "before_epoch": "epochs",
        "after_epoch": "epochs",
        "before_step": "steps",
        "after_step": "steps",
        "after_eval_batch": "validation",
    }
    seen = list(dict.fromkeys(words[name] for name in callback.watches if name in words))
    if seen:
        parts.append(f"watches {', '.join(seen)}")
    if "during_fit" in callback.watches:
        parts.append("open during the fit")
    return "; ".join(parts) or "does nothing"


def _chart(plan: Plan) -> list[str]:
    """The last layer group's learning rate, as blocks above a line of steps."""
    rates = plan.rates.lr[-1]
    rows = text_chart(rates, width=_WIDTH, height=_HEIGHT)
    labels = [f"{max(rates):.3g}", *[""] * (_HEIGHT - 2), "0"]
    width = max(map(len, labels))
    of = "learning rate" if len(plan.rates.lr) == 1 else f"learning rate of layer group {len(plan.rates.lr) - 1}"
    axis = f"step 1{f'{plan.num_steps:,}':>{_WIDTH - 6}}"
    lines = [f"{of}; momentum {_span(plan.rates.momentum)}"]
    lines += [f"{label:>{width}} ┤{row}" for label, row in zip(labels, rows, strict=True)]
    return [*lines, f"{'':{width}} └{'─' * _WIDTH}", f"{'':{width}}  {axis}"]


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.3g}" if low == high else f"from {values[0]:.3g}, between {low:.3g} and {high:.3g}"


def _forecast(plan: Plan) -> list[str]:
    forecast = plan.forecast
    waiting = f", of which {seconds_text(forecast.waiting)} waiting for data"
    waited = waiting if forecast.waiting > 0.01 * forecast.step else ""
    lines = [
        f"{seconds_text(phase.step)} per step and {seconds_text(phase.epoch)} per epoch of {phase.what}"
        for phase in plan.phases[:-1]
    ]
    last = f" of {plan.phases[-1].what}" if plan.phases else ""
    lines.append(f"{seconds_text(forecast.step)} per step{last}{waited}")
    if forecast.valid_batch is not None:
        lines.append(f"{seconds_text(forecast.valid_batch)} per batch of validation")
    timed = f"{_many(forecast.timed_steps, 'step')} and {_many(forecast.timed_valid_batches, 'batch')} of validation"
    first = f", {seconds_text(forecast.start)} before the first" if forecast.start > 0.01 * forecast.total else ""
    return [
        *lines,
        f"{seconds_text(forecast.epoch)} per epoch{last}{first}, {seconds_text(forecast.total)} in all",
        f"from {timed}, timed on a copy on this machine just now",
    ]


def _memory(plan: Plan) -> list[str]:
    memory = plan.memory
    rows = [
        ("parameters", memory.parameters),
        ("gradients", memory.gradients),
        ("optimizer", memory.optimizer),
        ("activations", memory.activations),
        ("peak", memory.peak),
    ]
    known = [(name, _bytes(size)) for name, size in rows if size is not None]
    width = max(len(size) for _, size in known)
    return [*(f"{size:>{width}} {name}" for name, size in known), f"({memory.how})"]


def _bytes(size: int) -> str:
    """Bytes as one reads them: 1,024 KiB are a MiB."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024  # type: ignore[assignment]
    return f"{size:.1f} GiB"
