"""The command `backdrop`, called by tests."""

from __future__ import annotations

from typer.testing import CliRunner

from backdrop.app import cli
from backdrop.errors import BackdropError


def call(*arguments: object) -> tuple[int, str]:
    """Exit status and output; a BackdropError counts as main() has it: status 1 and its text."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if isinstance(result.exception, BackdropError):
        return 1, str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output
