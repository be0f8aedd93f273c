"""Progress: bars on a terminal that say what is left, a line of text for each round elsewhere."""

from __future__ import annotations

import io
import re
import sys

import pytest

from collafuse_flwr.core.progress import Progress, counted


class Terminal(io.StringIO):
    """Standard output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass only when a test moves them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("collafuse_flwr.core.progress.time.monotonic", lambda: self.now)


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Let standard output be a terminal; not as a fixture, for pytest sets it anew when the test begins."""
    for name in ("NO_COLOR", "TTY_INTERACTIVE", "TTY_COMPATIBLE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    return screen


def one_round(progress: Progress, round_: int, of: int, clients: int = 2) -> None:
    progress.begin_round(round_, of, clients)
    for done in range(clients):
        progress.step("clients", done + 1, clients)
    progress.step("backbone", 5, 10)
    progress.end_round(round_, 0.5, [0.25, 0.75], 0)


def test_elsewhere_than_on_a_terminal_a_round_is_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        assert not progress.live
        for round_ in (1, 2):
            one_round(progress, round_, 2)
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"round 1/2: backbone loss 0\.5000, client loss 0\.5000 \(2 trained\), \d+\.\d s, about \d+ s left", lines[0]
    )
    assert re.fullmatch(r"round 2/2: backbone loss 0\.5000, client loss 0\.5000 \(2 trained\), \d+\.\d s", lines[1])
    assert len(lines) == 2


def test_quiet_is_plain_lines_on_a_terminal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with Progress(quiet=True) as progress:
        assert not progress.live
        one_round(progress, 1, 1)
    assert re.fullmatch(r"round 1/1: [^\x1b]*\n", terminal.getvalue()), "no control codes"


def test_a_line_is_never_wrapped_nor_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    line = "client 3: [red]no[/red] [0, 1] " + "x" * 300
    Progress().say(line)
    assert capsys.readouterr().out == line + "\n"


@pytest.mark.parametrize(
    ("backbone", "clients", "lost", "said"),
    [
        (None, [], 0, ""),
        (0.123456, [], 0, "backbone loss 0.1235, "),
        (None, [0.5, 1.0], 0, "client loss 0.7500 (2 trained), "),
        (0.5, [0.25], 1, "backbone loss 0.5000, client loss 0.2500 (1 trained), 1 of 4 clients lost, "),
    ],
)
def test_a_round_says_what_there_was_of_it(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    backbone: float | None,
    clients: list[float],
    lost: int,
    said: str,
) -> None:
    clock, progress = Clock(monkeypatch), Progress()
    progress.begin_round(3, 3, 4)
    clock.now += 2.5
    progress.end_round(3, backbone, clients, lost)
    assert capsys.readouterr().out == f"round 3/3: {said}2.5 s\n"


def test_the_time_left_is_that_of_the_rounds_left_at_the_pace_so_far(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, progress = Clock(monkeypatch), Progress()
    clock.now += 50  # waiting for clients is no pace
    for round_ in range(1, 6):
        progress.begin_round(round_, 5, 1)
        clock.now += 10
        progress.end_round(round_, None, [], 0)
    left = re.findall(r"about (\d+) s left", capsys.readouterr().out)
    assert left == ["40", "30", "20", "10"], "and nothing after the last"


def test_a_resumed_run_goes_by_its_own_pace(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, progress = Clock(monkeypatch), Progress()
    progress.begin_round(8, 10, 1)
    clock.now += 10
    progress.end_round(8, None, [], 0)
    assert "about 20 s left" in capsys.readouterr().out


def drawn(terminal: Terminal) -> str:
    """What was drawn, without colours and cursor movements."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())


def fraction(progress: Progress) -> float:
    return progress._bar.tasks[0].completed


def test_on_a_terminal_two_bars_say_what_is_done_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, clock = on_terminal(monkeypatch), Clock(monkeypatch)
    with Progress() as progress:
        assert progress.live
        progress.begin_round(1, 4, 10)
        clock.now += 10
        progress.end_round(1, 0.5, [], 0)
        progress.begin_round(2, 4, 10)
        progress.step("clients", 3, 10)
        progress._bar.refresh()
        assert "round 2/4" in drawn(terminal)
        assert "clients 3/10" in drawn(terminal)
        assert "about 30 s left" in drawn(terminal)
        progress.step("backbone", 7, 20)
        progress._bar.refresh()
        assert "backbone 7/20" in drawn(terminal)
        assert [task.completed for task in progress._bar.tasks] == [pytest.approx((1 + 0.4 + 0.6 * 0.35) / 4), 0.35]
    assert "round 1/4: backbone loss 0.5000, 10.0 s, about 30 s left" in drawn(terminal)


def test_the_bar_moves_forward_only_and_a_round_is_its_even_part(monkeypatch: pytest.MonkeyPatch) -> None:
    on_terminal(monkeypatch)
    with Progress() as progress:
        seen = []
        for round_ in range(1, 4):
            progress.begin_round(round_, 3, 2)
            seen.append(fraction(progress))
            assert seen[-1] == pytest.approx((round_ - 1) / 3)
            for what, total in (("clients", 2), ("backbone", 7)):
                for done in range(1, total + 1):
                    progress.step(what, done, total)
                    seen.append(fraction(progress))
            progress.step("sampling", 0, 2)
            assert fraction(progress) == pytest.approx(round_ / 3)
        assert seen == sorted(seen)
        assert seen[-1] == pytest.approx(1)


def test_nothing_to_do_is_no_division_by_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    on_terminal(monkeypatch)
    with Progress() as progress:
        progress.step("clients", 1, 1)
        assert fraction(progress) == 0, "before the first round there is nothing to show"
        progress.begin_round(1, 1, 0)
        progress.step("backbone", 0, 0)


def test_the_bar_is_taken_away_at_the_end_and_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    progress = Progress()

    def interrupted() -> None:
        with progress:
            progress.begin_round(1, 1, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not progress._bar.live.is_started
    hidden, shown = (terminal.getvalue().rindex(code) for code in ("\x1b[?25l", "\x1b[?25h"))
    assert hidden < shown, "the cursor is back"


def test_long_work_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock(monkeypatch)
    for _ in counted(range(10), "decoding", total=95, scale=10):
        clock.now += 6
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "decoding: 10 of 95, about 54 s left"
    assert len(lines) == 5
    assert lines[-1] == "decoding: 90 of 95, about 6 s left"


def test_short_work_says_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock(monkeypatch)
    assert list(counted(range(10), "decoding", total=10)) == list(range(10))
    clock.now += 100
    assert capsys.readouterr() == ("", "")


def test_a_plan_knows_of_clients_that_start_late_of_samples_and_of_measuring(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rounds so far say 10 s of the last one, which takes 10 + 60 + 20, and there is measuring after it."""
    clock, progress = Clock(monkeypatch), Progress()
    progress.plan(
        {
            "clients": [0.0, 0.0, 200.0, 0.0],
            "backbone": [100.0, 100.0, 100.0, 0.0],
            "sampling": [0.0, 0.0, 200.0, 0.0],
            "measuring": [0.0, 0.0, 0.0, 400.0],
        }
    )
    for round_ in range(1, 4):
        progress.begin_round(round_, 3, 1)
        clock.now += 60 if round_ == 3 else 1
        progress.step("clients", 1, 1)
        progress.step("backbone", 0, 9)
        clock.now += 10
        progress.step("backbone", 9, 9)
        progress.end_round(round_, None, [], 0)
    progress.step("clients", 1, 1)
    clock.now += 20
    progress.begin_measuring()
    lines = capsys.readouterr().out.splitlines()
    left = [int(*re.findall(r"about (\d+) s left", line)) for line in lines]
    assert left[:2] == [10 + 10 + 60 + 20 + 8, 10 + 60 + 20 + 8]
    # Now that clients were as slow as expected, and all of the round but its samples is done.
    assert left[2] == 20 + 8
    assert left[3] == 8
    assert lines[3].startswith("measuring the samples ... about")
