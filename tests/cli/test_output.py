"""How a command ends: its exit code, and errors as lines and JSON."""

from __future__ import annotations

import json

import pytest
import typer

from mlora_ray.cli.output import exits
from mlora_ray.errors import InputError, Mistake, MloraError

WRONG = Mistake(file="jobs.yaml", line=3, field="r", value="0", allowed="a rank above zero")


def ended(error: BaseException | int, as_json: bool, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    def command(as_json: bool) -> int:
        if isinstance(error, BaseException):
            raise error
        return error

    with pytest.raises(typer.Exit) as caught:
        exits(command)(as_json=as_json)
    said = capsys.readouterr()
    return caught.value.exit_code, said.out, said.err


@pytest.mark.parametrize("code", [0, 3, 4, 130])
def test_the_answer_is_the_exit_code(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(code, False, capsys) == (code, "", "")


def test_mistakes_are_lines_and_with_json_an_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(InputError([WRONG, WRONG]), False, capsys) == (1, "", f"{WRONG}\n{WRONG}\n")
    code, out, err = ended(InputError([WRONG]), True, capsys)
    assert (code, err) == (1, f"{WRONG}\n")
    assert json.loads(out)["mistakes"][0]["line"] == 3


def test_other_errors_of_ours_and_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(MloraError("no room"), True, capsys) == (1, '{"error": "no room"}\n', "no room\n")
    assert ended(KeyboardInterrupt(), False, capsys) == (130, "", "")


def test_a_bug_is_not_hidden() -> None:
    def command(as_json: bool) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        exits(command)(as_json=False)


def test_typer_sees_the_command_itself() -> None:
    def command(as_json: bool = False) -> int:
        """What it does."""
        return 0

    assert (exits(command).__doc__, exits(command).__name__) == (command.__doc__, "command")
