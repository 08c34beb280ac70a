"""Whatever programs print, and whatever Roost tells of them: on a terminal it is text and Roost's own codes."""

from __future__ import annotations

import io
import json
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from fuzz import checks
from roost.cli.live import Row, frame
from roost.cli.output import PIECE, LastLine, Lines, last_lines, prefixed, safe_line
from roost.cli.render import PlainMonitor, error_text
from roost.cli.summary import note, summary
from roost.cli.table import SGR, Style, columns, cut, fold, table
from roost.errors import DefinitionError
from roost.events import LayerEnded, LayerOutput, LayerStarted, LayerStep, RunEnded, RunOutput, RunStarted, Warned
from roost.results import STATES, Artifact, Result, as_json, junit

if TYPE_CHECKING:
    from pathlib import Path


def output(data: bytes, place: Path) -> None:
    """A program's output: no byte is doubled, no line is longer than a piece, and the terminal stays as it was."""
    lines = Lines()
    half = len(data) // 3
    text = [*lines.feed(data[:half]), *lines.feed(data[half:]), *lines.end()]
    plain = data.decode(errors="replace")
    if len(data) < PIECE:
        # as a terminal would: what a return goes back over is gone
        wanted = [line.rstrip("\r").rpartition("\r")[2] for line in plain.split("\n")]
        assert text == (wanted if data and not data.endswith(b"\n") else wanted[:-1])
    assert all(len(line) <= PIECE for line in text)
    for colour in (True, False):
        shown = prefixed(text, "who | ", colour=colour)
        checks.harmless(shown)
        assert shown.count("\n") == len(text)
        assert shown == "".join(f"who | {safe_line(line, colour=colour)}\n" for line in text)
        assert colour or "\x1b" not in shown
        for line in shown.split("\n"):
            codes = SGR.findall(line)
            assert not codes or codes[-1] in {"\x1b[0m", "\x1b[m"}
    last = LastLine()
    last.feed(data)
    for line in (last.text(), *last_lines(plain, 5)):
        checks.harmless(line)
        assert not re.search("[\t\n\x1b]", line)


def monitor(data: bytes, place: Path) -> None:
    """Names, steps, warnings, results: shown, counted and written down, whatever is in them."""
    words = [part.decode(errors="surrogateescape") for part in data.split(b"\0")]
    word = [*words, "", "", "", "", "", ""]
    for style in (Style(colour=True), Style(unicode=False)):
        stream = io.StringIO()
        with PlainMonitor(stream, style=style, verbose=True, machines=["one"]) as plain:
            plain(LayerStarted("d", word[0], word[1]))
            plain(LayerStep("d", word[2], 1, 2))
            plain(LayerOutput("d", data))
            plain(LayerEnded("d", word[0], "built", 1.0))
            plain(RunStarted("one", word[1], ""))
            piece = max(len(data) // 8, 1)
            for at in range(0, len(data), piece):
                plain(RunOutput("one", 1, data[at : at + piece]))
            plain(Warned(word[3], "one"))
            plain(RunEnded("one", "killed", 1.0))
        checks.harmless(stream.getvalue())
        _table(words, data, style)
        _results(word, data, style, place)


def _table(words: list[str], data: bytes, style: Style) -> None:
    rows = [(word, len(word), "x") for word in words]
    for width in (None, 30):
        text = table(["name", "size", "more"], rows, width=width, style=style)
        checks.harmless(text)
        assert text.count("\n") == len(rows) + 1
        assert width is None or all(columns(SGR.sub("", line)) <= width + 10 for line in text.split("\n"))
    rows_shown = []
    for word in words[:8]:
        row = Row("one", "running", 1.0)
        row.output.feed(data)
        row.step = cut(word if word.isprintable() else "", 10)
        rows_shown.append(row)
    for width in (24, 60):
        for line in frame(rows_shown, width=width, height=8, style=style, now=5.0):
            checks.harmless(line)
            assert columns(SGR.sub("", line)) <= width
    for word in words:
        if word.isprintable():
            assert columns(cut(word, 7)) <= 7
            folded = fold(word, 7, rows=3)
            assert len(folded) <= 3
            assert all(columns(line) <= 7 for line in folded)


def _results(word: list[str], data: bytes, style: Style, place: Path) -> None:
    log = place / "log"
    log.write_bytes(data)
    results = [
        Result(
            machine="one", command=(word[0], word[1]), state=state, status=len(data) % 256 if state == "failed" else None,
            signal="SIGSEGV" if state == "killed" else "", seconds=1.5, tail=data.decode(errors="replace"), error=word[3], hint=word[4],
            warnings=(word[5],), log=str(log), kept="one-123456", artifacts=(Artifact(path=word[0], source=word[1], size=len(data)),),
        )
        for state in STATES
    ]  # fmt: skip
    document = json.loads(as_json(results, seconds=1.0))
    assert [each["state"] for each in document["results"]] == list(STATES)
    assert len(ET.fromstring(junit(results)).findall(".//testcase")) == len(STATES)
    for width in (None, 40):
        checks.harmless(summary(results, style=style, width=width))
    for result in results:
        checks.harmless(note(result, style=style))
    error = DefinitionError(word[0] or "x", details=word[1], hint=word[2])
    checks.harmless(error_text(error, style=style, width=40))
