"""An option that is not known here is refused by its name: a network must never run without what its author asked for."""

from __future__ import annotations

from collections.abc import Mapping


class UnknownOptionError(NotImplementedError, TypeError):
    """An option that mamba_ssm or causal_conv1d may have and this package has not.

    Also a TypeError: code that tries an option and goes on without it where it is unknown expects that.
    """


def refuse_unknown(function: str, options: Mapping[str, object]) -> None:
    """Refuse keywords that the signature does not name.

    Raises:
        UnknownOptionError: naming them.
    """
    if options:
        names = ", ".join(f"{name}={value!r:.60}" for name, value in options.items())
        raise UnknownOptionError(
            f"medseg_kernels.compat: {function} has no option {names}. Leave it out if the network does not need it."
        )


def refuse_value(function: str, option: str, found: object, expected: object) -> None:
    """Refuse a known option's value that is not computed here.

    Raises:
        UnknownOptionError: always; naming the option, what was found and what is computed.
    """
    raise UnknownOptionError(f"medseg_kernels.compat: {function}: {option}={found!r:.60}; computed here: {expected}")
