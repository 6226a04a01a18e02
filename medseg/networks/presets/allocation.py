"""The allocation rule of the Mamba-2-Hybrid study: which of n layers mix by recurrence, by attention, by an MLP."""

from medseg.errors import ConfigError


def allocate(count: int, attention: float = 0.08, mlp: float = 0.5, mixer: str = "ssd",
             attention_name: str = "full_attention") -> tuple[str, ...]:  # fmt: skip
    """Names of `count` single sub-layers, as published.

    round(count * attention) attention layers at equal spacing with recurrent layers at both ends; then
    round(count * mlp) MLPs spread evenly over the other positions.

    Args:
        count: sub-layers.
        attention: share of attention layers.
        mlp: share of MLP layers.
        mixer: name of the recurrent mixer.
        attention_name: name of the attention mixer.

    Raises:
        ConfigError: shares that leave no place for the recurrent mixer.

    Example:
        >>> "".join({"ssd": "M", "full_attention": "*", "mlp": "-"}[name] for name in allocate(12))
        'M-M-M-*-M-M-'

    Source: Waleffe et al. 2024 (An Empirical Study of Mamba-based Language Models).
    """
    attended, mlps = round(count * attention), round(count * mlp)
    if min(attended, mlps) < 0 or attended + mlps > count:
        raise ConfigError(
            f"allocate: found {attended} attention and {mlps} MLP layers, expected at most {count} together"
        )
    places = [False] * count
    gaps, left = attended + 1, count - attended
    for index in _spread(count, attended, left / gaps):
        places[index] = True
    return _with_mlps(places, mlps, mixer, attention_name)


def _spread(count: int, marked: int, run: float) -> list[int]:
    """Places of `marked` among `count` so that runs of about `run` others lie before, between and behind them."""
    chosen: list[int] = []
    waiting = run
    for index in range(count):
        if waiting < 0.5 and len(chosen) < marked:
            chosen.append(index)
            waiting += run
        else:
            waiting -= 1
    return chosen


def _with_mlps(attends: list[bool], mlps: int, mixer: str, attention_name: str) -> tuple[str, ...]:
    """Fill the places that do not attend: `mlps` of them evenly, each run of recurrent layers before its MLP."""
    free = [index for index, attention in enumerate(attends) if not attention]
    names = [attention_name if attention else mixer for attention in attends]
    run = (len(free) - mlps) / mlps if mlps else 0.0
    waiting = run
    placed = 0
    for index in free:
        if waiting < 0.5 and placed < mlps:
            names[index] = "mlp"
            placed += 1
            waiting += run
        else:
            waiting -= 1
    return tuple(names)
