"""Files made to cost, to confuse or to crash a parser: each ends in one short line that names the file."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from medseg.config import read_config
from medseg.documents import MAX_DEPTH, MissingFileError, UnopenedFileError, parse_json, read_json
from medseg.documents_yaml import read_yaml
from medseg.errors import ConfigError, MedsegError, UntrustedBundleError

BAD_JSON = {
    "empty": b"",
    "blank": b" \n\t ",
    "cut": b'{"a": [1, 2',
    "two values": b"{} {}",
    "python": b"{'a': True}",
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "a little too deep": b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
    "many values": b"[" + b"0," * 1_000_001 + b"0]",
    "many lists": b"[" + b"[]," * 1_000_001 + b"0]",
    "long integer": b"9" * 5000,
    "long integer below Python's own limit": b'{"a": ' + b"9" * 100 + b"}",
    "huge float": b'{"a": 1e400}',
    "long float": b'{"a": 0.' + b"1" * 5000 + b"}",
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": [-Infinity]}',
    "key twice": b'{"a": 1, "a": 2}',
    "key twice inside": b'{"x": [{"b": 1, "c": 2, "b": 3}]}',
    "latin-1": '{"a": "Prüfung"}'.encode("latin-1"),
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "half a surrogate pair": b'{"a": "\\ud800"}',
    "half a pair as a key": b'{"\\udfff": 1}',
    "NUL": b'{"a": "x\\u0000y"}',
    "control character": b'{"a": "x\x01y"}',
    "zeros": b"\0" * 1000,
    "pickle": b"\x80\x04\x95\x00\x00",
}

BAD_YAML = {
    "aliases that multiply": b"a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    + b"".join(
        b"%c: &%c [%s]\n" % (y, y, b",".join([b"*%c" % x] * 9)) for x, y in zip(b"abcdefghi", b"bcdefghij", strict=True)
    ),
    "merges that multiply": b"a: &a {k: v}\nb: &b\n  <<: [*a, *a, *a]\n",
    "circle": b"a: &a [*a]\n",
    "circle of tables": b"a: &a {b: *a}\n",
    "deep": b"a: " + b"[" * 100_000 + b"]" * 100_000,
    "deep blocks": b"".join(b" " * n + b"a:\n" for n in range(MAX_DEPTH + 2)),
    "many": b"a: [" + b"0," * 60_000 + b"0]",
    "large": b"a: " + b"x" * (1 << 20),
    "long integer": b"a: " + b"9" * 5000,
    "sixty times sixty": b"a: 1" + b":59" * 4000,
    "NaN": b"a: .nan",
    "infinity": b"a: [-.inf]",
    "key twice": b"a: 1\nb: 2\na: 3\n",
    "key twice in two spellings": b"1: a\n0x1: b\n",
    "key that is a list": b"? [1, 2]\n: x\n",
    "key that is nothing": b"? \n: x\n",
    "object": b"a: !!python/object/apply:os.system ['true']\n",
    "own tag": b"a: !thing x\n",
    "binary": b"a: !!binary aGVsbG8=\n",
    "set": b"a: !!set {x, y}\n",
    "bad base64": b"a: !!binary =\n",
    "bad number": b"a: !!int xyz\n",
    "bad truth": b"a: !!bool perhaps\n",
    "bad date": b"a: !!timestamp 2024-99-99\n",
    "two documents": b"a: 1\n---\nb: 2\n",
    "unknown alias": b"a: *nobody\n",
    "tabs": b"a:\n\t- b\n",
    "latin-1": "a: Prüfung".encode("latin-1"),
    "UTF-16": "a: 1".encode("utf-16"),
    "half a surrogate pair": b'a: "\\ud800"',
    "NUL": b'a: "x\\0y"',
}


def one_line(path: Path, reader) -> MedsegError:
    begin = time.process_time()
    with pytest.raises(MedsegError) as caught:
        reader(path)
    message = str(caught.value)
    assert time.process_time() - begin < 2.0
    assert message.startswith(f"{path}: "), message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300
    return caught.value


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_json_is_one_line_that_names_the_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(BAD_JSON[name])
    one_line(path, read_json)
    one_line(path, lambda file: read_config([file]))


@pytest.mark.parametrize("name", BAD_YAML)
def test_bad_yaml_is_one_line_that_names_the_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(BAD_YAML[name])
    one_line(path, read_yaml)


def test_what_is_no_file_is_named_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero"), tmp_path / "loop"):
        for reader in (read_json, read_yaml):
            assert isinstance(one_line(path, reader), UnopenedFileError), path
    for path in (tmp_path / "none.json", tmp_path / "pipe" / "x"):
        error = one_line(path, read_json)
        assert isinstance(error, MissingFileError)
        assert isinstance(error, FileNotFoundError), "callers may ask in the language of OSError"
        assert error.strerror
    with pytest.raises(ConfigError, match="no path"):
        read_json("a\0b")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.json").open("wb") as stream:
        stream.truncate(1 << 40)  # sparse: a terabyte of zeros
    assert "bytes" in str(one_line(tmp_path / "x.json", read_json))


def test_sound_files_are_read_as_they_are(tmp_path: Path) -> None:
    text = '{"a": [1, -2.5e3, true, null, "é\\n\\u00fc\\ud83d\\ude00"], "b": {"c": "' + "x" * 100 + '"}}'
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
    expected = {"a": [1, -2500.0, True, None, "é\nü\U0001f600"], "b": {"c": "x" * 100}}
    assert read_json(tmp_path / "x.json") == expected
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH, "deep") is not None
    (tmp_path / "x.yaml").write_text("a: &a [1, 2.5, yes, null, text, 2024-01-02]\nb: {0: *a, c: '='}\n# end\n")
    numbers = [1, 2.5, True, None, "text", "2024-01-02"]
    assert read_yaml(tmp_path / "x.yaml") == {"a": numbers, "b": {0: numbers, "c": "="}}


def test_a_tag_is_a_matter_of_trust(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(BAD_YAML["object"])
    with pytest.raises(UntrustedBundleError, match=r"x\.yaml: refused"):
        read_yaml(tmp_path / "x.yaml")
