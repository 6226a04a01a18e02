"""What an error says is one line, whatever a name in it holds."""

from __future__ import annotations

from medseg.errors import ConfigError, nearest


def test_a_message_is_one_line_whatever_a_key_of_a_file_holds() -> None:
    error = ConfigError(f"unknown key 'x'. {nearest('x', ['a', chr(10), 'b' + chr(0x2028) + 'c'])}")
    assert len(str(error).splitlines()) == 1
    assert str(error) == r"unknown key 'x'. Known: \u000a, a, b\u2028c."
