"""What the README shows is what happens."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_first_python_block_prints_what_stands_below_it(tmp_path, monkeypatch, capsys):
    code, shown = re.search(r"```python\n(.*?)```\s+```text\n(.*?)```", README, re.DOTALL).groups()
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    score = r"0\.\d\d"
    assert re.sub(score, "#", printed) == re.sub(score, "#", shown)
    # in bf16, which some processors take, a score differs in the second place
    scores = [[float(one) for one in re.findall(score, text)] for text in (printed, shown)]
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


SAID = re.compile(r"^print\(.*\)  # (.*)$", re.MULTILINE)
"""What a comment says that its line prints."""


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("python"))
def test_every_python_block_runs_and_prints_what_its_comments_say(code, tmp_path, monkeypatch, capsys):
    (tmp_path / "data").symlink_to(ROOT / "data")
    (tmp_path / "photos").symlink_to(ROOT / "data" / "gallery")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert [said for said in SAID.findall(code) if said not in printed] == []


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|\$ )make (\w+)", README))
    assert named
    assert named <= targets


def test_every_command_that_is_shown_is_understood(monkeypatch, capsys):
    from typer.main import get_command

    from t2i_pipelines.cli import app

    commands = get_command(app).commands
    shown = [line for block in blocks("console") for line in block.splitlines() if line.startswith("$ t2i ")]
    assert shown
    for line in shown:
        _, _, name, *arguments = shlex.split(line, comments=True)
        commands[name].make_context(name, arguments)


def test_every_link_into_the_repository_leads_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
