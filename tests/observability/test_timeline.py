import json
import re
import zlib
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pytest
from support.browser import Browser, find_browser

from db_manager.events import UnitClosed
from lifecycle.bus import EventBus
from lifecycle.correlation import Correlation
from lifecycle.event import Event
from lifecycle.events import (
    AppCrashed,
    AppDrained,
    AppStarted,
    AppStopped,
    AppStopping,
    PluginDegraded,
    PluginFailed,
    PluginLoaded,
    PluginLoading,
    PluginRecovered,
    PluginStarted,
    PluginStarting,
    PluginStopped,
    PluginStopping,
    PluginUnloaded,
    PluginUnloading,
    ServiceProvided,
    ServiceWithdrawn,
)
from lifecycle.journal import JournalEntry
from lifecycle.printable import printable
from observability import timeline
from observability.story.steps import HookRun, steps
from observability.story.unit_log import UnitFact, unit_fact
from observability.story.unit_reader import read_units
from observability.story.unit_writer import record_units
from observability.views import picture as pictures
from observability.views.picture import draw

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \u2028&amp; \x1b[31m"

GOOD: list[Event] = [
    AppCrashed(at=100.0, run=1, last_topic="plugin.starting", last_plugin="db"),
    PluginLoading(at=100.0, plugin="db"),
    ServiceProvided(at=100.1, plugin="db", service="db:engine"),
    PluginLoaded(at=100.2, plugin="db", duration=0.2),
    PluginStarting(at=100.2, plugin="db"),
    PluginStarted(at=100.5, plugin="db", duration=0.3),
    AppStarted(at=100.5, plugins=("db",), duration=0.5),
    PluginDegraded(at=101.0, plugin="db", reason=f"no answer {EVIL}"),
    PluginRecovered(at=102.0, plugin="db", duration=1.0),
    AppDrained(at=103.0, waited=1, cancelled=("update 7 (bot.slow)",), duration=0.4),
    AppStopping(at=103.0),
    PluginStopping(at=103.0, plugin="db"),
    PluginStopped(at=103.5, plugin="db", duration=0.5),
    AppStopped(at=103.5, duration=0.5),
    PluginUnloading(at=103.5, plugin="db"),
    ServiceWithdrawn(at=103.5, plugin="db", service="db:engine"),
    PluginUnloaded(at=103.6, plugin="db", duration=0.1),
]
FAILED: list[Event] = [
    PluginLoading(at=100.0, plugin=EVIL),
    PluginFailed(
        at=100.2,
        plugin=EVIL,
        hook="load",
        error=f"ValueError: {EVIL}",
        cleanup_errors=(f"OSError: {EVIL}",),
        duration=0.2,
    ),
]
UNITS = [
    UnitFact(run=2, topic="uow.close", at=101.2, unit=1, outcome="committed", duration=0.2),
    UnitFact(
        run=2,
        topic="uow.close",
        at=101.3,
        unit=2,
        outcome="rolled_back",
        error=f"KeyError: {EVIL}",
        duration=0.25,
        statements=1,
        correlation=Correlation(plugin="db", handler="bot.<lambda>", update_id=8),
    ),
    UnitFact(
        run=2,
        topic="uow.close",
        at=101.4,
        unit=3,
        outcome="outcome_unknown",
        duration=0.05,
        statements=2,
        attempt=2,
        waited=0.2,
        correlation=Correlation(plugin="db"),
    ),
    UnitFact(
        run=2,
        topic="pool.exhausted",
        at=101.0,
        holders=("unit 1, 3.2 s",),
        correlation=Correlation(plugin="db"),
    ),
    UnitFact(run=2, topic="uow.slow", at=101.1, unit=1, duration=1.1),
]


def history(events: list[Event], run: int = 2) -> list[JournalEntry]:
    """Return *events* as the journal keeps them."""
    return [JournalEntry(seq=seq, run=run, event=each) for seq, each in enumerate(events, 1)]


class Parsed(HTMLParser):
    """The tags of a page and its texts, as a browser understands them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.goes_on = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag."""
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in {"meta", "br", "link", "img", "wbr"}:
            self.open.append(tag)
        self.goes_on = tag == "wbr"

    def handle_endtag(self, tag: str) -> None:
        """Check that it closes the last one."""
        self.goes_on = False
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note the text, or the script."""
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] != "style":
            if self.goes_on:
                data = self.texts.pop() + data
            self.texts.append(data)
            self.goes_on = False


@pytest.mark.parametrize("events", [GOOD, FAILED], ids=["good", "failed"])
def test_no_text_of_a_run_becomes_markup(events: list[Event]) -> None:
    """Whatever plugins, errors and units are called, the page has its own two scripts only."""
    page = timeline.render(history(events), UNITS)
    parsed = Parsed(page)
    assert parsed.open == []
    assert parsed.tags.count("script") == 2
    assert "img" not in parsed.tags
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    data, script = parsed.scripts
    told = [line for item in json.loads(data)["items"] for line in item["lines"]]
    assert [line for line in told if printable(EVIL) in line]
    assert "alert(" not in script
    assert "\x1b" not in page


def test_the_page_may_load_nothing_and_run_only_its_own_script() -> None:
    """The page forbids the network to itself, and names its script and style by their digest."""
    parsed = Parsed(timeline.render(history(GOOD)))
    policy = next(value for _, value in parsed.attributes if value and "default-src" in value)
    assert policy.startswith("default-src 'none'; base-uri 'none'; form-action 'none'; ")
    assert len(re.findall("'sha256-[A-Za-z0-9+/]{43}='", policy)) == 2
    assert not [value for name, value in parsed.attributes if name in {"src", "href"}]


def test_the_table_says_what_the_picture_shows() -> None:
    """Who sees no picture reads each step, how long it took, and what went wrong."""
    parsed = Parsed(timeline.render(history(GOOD), UNITS))
    texts = [text.strip() for text in parsed.texts if text.strip()]
    assert texts[0] == texts[1] == "Run 2 ended well"
    assert texts[2] == "Began 1970-01-01 00:01:40 UTC, lasted 3.600 s"
    assert texts[3] == (
        "3 units of work: 1 committed, 1 rolled back, 1 outcome unknown; "
        "the longest, unit 2, took 250.0 ms."
    )
    rows = texts[texts.index("Took") + 1 :]
    load = rows.index("load db")
    assert rows[load - 2 : load + 3] == [
        "00:01:40.000",
        "db",
        "load db",
        "provides db:engine",
        "200.0 ms",
    ]
    assert rows[rows.index("drain") + 1 :][:2] == [
        "1 update was in flight",
        "cancelled: update 7 (bot.slow)",
    ]
    assert "held by unit 1, 3.2 s" in rows
    assert "unit 2" in rows
    assert "unit 1" not in rows  # it went well: the picture has it
    assert "waited 200.0 ms for a connection" in texts
    assert {"1 statement, 0.0 ms in the database", "2 statements, 0.0 ms in the database"} <= {
        *texts
    }


def test_databases_and_replicas_are_in_the_picture() -> None:
    """A unit on another database names it; the loss of a replica and its return are moments."""
    facts = (
        UnitFact(
            run=2, topic="uow.close", at=101.0, unit=5, outcome="rolled_back", database="stats"
        ),
        UnitFact(run=2, topic="replica.lost", at=101.5, reason="OSError: gone", database="stats"),
        UnitFact(run=2, topic="replica.recovered", at=102.0, duration=0.5),
    )
    parsed = Parsed(timeline.render(history(GOOD), facts))
    texts = [text.strip() for text in parsed.texts if text.strip()]
    assert {"unit 5 on stats", "replica lost on stats", "OSError: gone"} <= set(texts)
    assert "replica is back" in texts


def test_migrations_are_bars_below_the_hook_that_they_are_of() -> None:
    """One that failed says what it left; one without an end lasts as long as the run."""
    error = f"OperationalError: {EVIL}"
    happened: list[tuple[float, str, str, dict[str, Any]]] = [
        (100.2, "database.migrating", "0001_first", {}),
        (100.3, "database.migrated", "0001_first", {"duration": 0.1}),
        (100.3, "database.migrating", "0002_b", {}),
        (100.5, "database.migration_failed", "0002_b", {"error": error, "kept": 1}),
        (100.6, "database.migrating", "0002_b", {}),
    ]
    hook = Correlation(plugin="db")
    facts = [
        UnitFact(
            run=2, at=at, topic=topic, owner="notes", revision=name, correlation=hook, **fields
        )
        for at, topic, name, fields in happened
    ]
    picture = draw(history(GOOD), facts, began=100.0)
    bars = [each for each in picture.items if each.kind == "migration"]
    assert [(each.name, each.state, each.row) for each in bars] == [
        ("migrate notes: 0001_first", "done", 1),
        ("migrate notes: 0002_b", "failed", 1),
        ("migrate notes: 0002_b", "open", 1),
    ]
    assert {picture.lanes[each.lane].name for each in bars} == {"db"}
    assert [each.begin for each in bars] == pytest.approx([0.2, 0.3, 0.6])
    assert [each.end for each in bars] == pytest.approx([0.3, 0.5, picture.length])
    assert bars[1].lines == (printable(error), "1 statement of it stayed")
    assert set(bars) <= set(picture.listed())


def test_hooks_are_told_with_what_happened_in_them() -> None:
    """A hook goes from its begin to the event that ends it, and has the facts between."""
    hooks = [each for each in steps(GOOD) if isinstance(each, HookRun)]
    assert [(each.hook, each.duration, each.outcome) for each in hooks] == [
        ("load", 0.2, "done"),
        ("start", 0.3, "done"),
        ("stop", 0.5, "done"),
        ("unload", 0.1, "done"),
    ]
    assert [fact.topic for fact in hooks[3].facts] == ["service.withdrawn"]
    (dead,) = (each for each in steps(GOOD[:5]) if isinstance(each, HookRun) and not each.duration)
    assert (dead.hook, dead.outcome) == ("start", "open")


def test_a_hook_without_an_end_lasts_as_long_as_the_run() -> None:
    """What ran when the process died is drawn up to the last thing that is known."""
    picture = draw(history(GOOD[:5]), UNITS[:1], began=100.0)
    (item,) = (item for item in picture.items if item.state == "open")
    assert item.kind == "start"
    assert item.begin == pytest.approx(0.2)
    assert item.end == pytest.approx(picture.length)
    assert picture.length == pytest.approx(1.2)


def test_units_that_were_open_together_have_rows_of_their_own() -> None:
    """Units of one plugin lie in as many rows as were open at once, and no deeper than six."""
    facts = [
        UnitFact(run=2, topic="uow.close", at=110.0 + u, unit=u, outcome="committed", duration=9.5)
        for u in range(12)
    ]
    picture = draw([], facts, began=100.0)
    assert [lane.name for lane in picture.lanes] == [pictures.APP, pictures.ELSEWHERE]
    assert picture.lanes[1].rows == pictures.MAX_ROWS
    assert [item.row for item in picture.items][:7] == [1, 2, 3, 4, 5, 6, 6]


def test_a_unit_inside_of_a_unit_lies_below_it() -> None:
    """It has a bar of its own, named after both, without statements; one that failed stands out."""
    facts = [
        UnitFact(run=2, topic="uow.leave", at=102, unit=1, inner=2, outcome="joined", duration=1),
        UnitFact(run=2, topic="uow.leave", at=103, unit=1, inner=3, outcome="failed", duration=0.5),
        UnitFact(run=2, topic="uow.close", at=104, unit=1, outcome="rolled_back", duration=4),
    ]
    items = draw([], facts, began=100.0).items
    assert [(item.name, item.row, item.state) for item in items] == [
        ("unit 1", 1, "warned"),
        ("unit 2 in 1", 2, "done"),
        ("unit 3 in 1", 2, "failed"),
    ]
    assert [item.lines for item in items[1:]] == [("joined",), ("failed",)]


def test_of_too_many_units_the_remarkable_ones_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page stays small: what failed and what was long stays, and the rest is counted."""
    monkeypatch.setattr(pictures, "MAX_UNITS", 2)
    facts = [
        UnitFact(run=2, topic="uow.close", at=101, unit=1, outcome="rolled_back", duration=0.001),
        UnitFact(run=2, topic="uow.close", at=101, unit=2, outcome="committed", duration=0.002),
        UnitFact(run=2, topic="uow.close", at=101, unit=3, outcome="committed", duration=0.5),
    ]
    picture = draw(history(GOOD), facts, began=100.0)
    assert {item.name for item in picture.items if item.kind == "unit"} == {"unit 1", "unit 3"}
    assert "1 short committed unit is not drawn." in timeline.render(history(GOOD), facts)


def test_the_last_of_several_runs_is_shown(tmp_path: Path) -> None:
    """All that a journal has may be given; without anything there is nothing to show."""
    path = timeline.write(history(FAILED, run=1) + history(GOOD), tmp_path / "page.html")
    assert "<title>Run 2 ended well</title>" in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="no entries"):
        timeline.render([])


def _closed(unit: int) -> UnitClosed:
    return UnitClosed(unit=unit, outcome="committed", duration=0.5, statements=1, database_time=0.1)


def test_units_are_recorded_and_read_again_by_run(tmp_path: Path) -> None:
    """What was recorded is read by run; a line that the end of a process cut does no harm."""
    path = tmp_path / "bot.units.jsonl"
    for number in (1, 2):
        bus = EventBus()
        bus.run = number
        close = record_units(bus, path)
        bus.publish(_closed(number))
        close()
        bus.publish(_closed(99))
        with path.open("a") as file:
            file.write('{"run":1,"topic":"uow.cl')
    assert path.stat().st_mode & 0o777 == 0o600
    assert [fact.unit for fact in read_units(path, 1)] == [1]
    (fact,) = read_units(path, 2)
    assert (fact.unit, fact.outcome, fact.duration) == (2, "committed", 0.5)
    assert unit_fact(_closed(7), 3).unit == 7
    assert list(read_units(tmp_path / "nothing", 1)) == []


def test_a_full_record_is_put_aside_once(tmp_path: Path) -> None:
    """The record takes at most twice its size, and the newest units are in it."""
    path = tmp_path / "bot.units.jsonl"
    for unit in range(20):
        bus = EventBus()
        close = record_units(bus, path, max_bytes=600)
        bus.publish(_closed(unit))
        close()
    units = [fact.unit for fact in read_units(path, 0)]
    assert units == list(range(units[0], 20))
    assert 2 <= len(units) < 20
    assert len(list(tmp_path.iterdir())) == 2


@dataclass(frozen=True)
class Style:
    """What the style sheet of the page says in one colour scheme, as far as bars need it."""

    variables: dict[str, str]
    rules: dict[str, dict[str, str]]

    def fill(self, *selectors: str) -> tuple[float, ...]:
        """Return the colour of the last selector that has a rule with a fill."""
        fills = [self.rules.get(each, {}).get("fill") for each in selectors]
        (*_, last) = filter(None, fills)
        return rgb(self.variables[last.removeprefix("var(").removesuffix(")")])

    def opacity(self, selector: str) -> float:
        """Return how much of what is behind a bar it hides; 1 is all."""
        return float(self.rules.get(selector, {}).get("fill-opacity", 1))

    def bar(self, kind: str, state: str, *behind: tuple[float, ...]) -> tuple[float, ...]:
        """Return the colour that a bar has on what is behind it."""
        own = self.fill(f".{kind}", f"#picture .{state}[data-item]")
        opacity = self.opacity(f"#picture .{state}[data-item]")
        return mixed(own, behind[-1], opacity)


def styles() -> dict[str, Style]:
    """Return what the style sheet says, by colour scheme."""
    (sheet,) = re.findall("<style>(.*?)</style>", timeline.render(history(GOOD)), re.DOTALL)
    rules = {
        selector.strip(): dict(re.findall(r"([\w-]+):\s*([^;]+)", body))
        for selectors, body in re.findall(r"([^{}]+)\{([^{}]*)\}", sheet)
        for selector in selectors.split(",")
        if ":root" not in selector
    }
    light, dark = (
        dict(re.findall(r"(--[\w-]+):\s*(#\w+)", each))
        for each in re.findall(r":root \{(.*?)\}", sheet, re.DOTALL)
    )
    return {"light": Style(light, rules), "dark": Style({**light, **dark}, rules)}


def rgb(colour: str) -> tuple[float, ...]:
    """Return red, green and blue of `#abc` or `#aabbcc`, each from 0 to 255."""
    digits = colour.removeprefix("#")
    wide = "".join(digit * 2 for digit in digits) if len(digits) == 3 else digits
    return tuple(float(int(wide[at : at + 2], 16)) for at in (0, 2, 4))


def mixed(front: tuple[float, ...], behind: tuple[float, ...], opacity: float) -> tuple[float, ...]:
    """Return the colour of something translucent in front of something else."""
    return tuple(f * opacity + b * (1 - opacity) for f, b in zip(front, behind, strict=True))


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Return the contrast of two colours as WCAG 2 defines it, from 1 to 21."""

    def luminance(colour: tuple[float, ...]) -> float:
        parts = [each / 255 for each in colour]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", get_args(pictures.ItemState))
def test_the_label_of_every_bar_can_be_read(scheme: str, state: str) -> None:
    """Labels have a contrast of 4.5 on every bar, whatever lies behind one that is translucent."""
    assert contrast(rgb("#000"), rgb("#fff")) == pytest.approx(21)
    style = styles()[scheme]
    label = style.fill("#picture .inside", f"#picture .inside.{state}")
    grounds = [rgb(style.variables["--paper"]), style.fill("#picture .odd")]
    degraded = style.fill(".degraded")
    behind = [*grounds, *(mixed(degraded, g, style.opacity(".degraded")) for g in grounds)]
    labelled = set(get_args(pictures.Kind)) - {"unit", "migration", "moment", "degraded"}
    seen = {
        (kind, index): contrast(label, style.bar(kind, state, ground))
        for kind in labelled
        for index, ground in enumerate(behind)
    }
    assert len(seen) == 16
    assert {pair: value for pair, value in seen.items() if value < 4.5} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_of_the_page_can_be_read(scheme: str) -> None:
    """Texts, those in colour too, have a contrast of 4.5 on paper and on the bands."""
    style = styles()[scheme]
    colours = {
        rule["color"] for name, rule in style.rules.items() if "color" in rule and name != "button"
    } - {"inherit"}
    assert len(colours) == 5
    values = {
        (colour, ground): contrast(
            rgb(style.variables[colour.removeprefix("var(").removesuffix(")")]),
            rgb(style.variables[ground]),
        )
        for colour in colours
        for ground in ("--paper", "--band")
    }
    assert {pair: value for pair, value in values.items() if value < 4.5} == {}


def test_a_name_may_break_after_its_dots_only() -> None:
    """The page offers places to break a line in: after dots of names and slashes of paths."""
    where = Correlation(handler="examples.notes_bot.<lambda>", update_id=1)
    error = "OSError: /srv/bot/1.5.csv took 0.25 s. See a.b"
    facts = [UnitFact(run=2, topic="uow.retry", at=101, error=error, correlation=where)]
    page = timeline.render(history(GOOD), facts)
    assert "<br>examples.<wbr>notes_bot.&lt;lambda&gt;</td>" in page
    assert "<br>OSError: /srv/<wbr>bot/1.5.<wbr>csv took 0.25 s. See a.<wbr>b<br>" in page


def colours(png: bytes) -> int:
    """Return how many different bytes the pixels of a picture have: few when it is blank."""
    data, at = b"", 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += 12 + length
    return len(set(zlib.decompress(data)))


#: The words of the page that stand on two lines, and the width of the narrowest text of a row.
BROKEN = r"""(() => {
  const words = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    if (node.parentElement.closest("script, svg")) continue;
    for (const word of node.data.matchAll(/[\w.]+/g)) {
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map((box) => box.top)).size > 1) words.push(word[0]);
    }
  }
  return words;
})()"""
NARROWEST = (
    "Math.min(...[...document.querySelectorAll('td:nth-child(3)')].map((e) => e.clientWidth))"
)


async def test_on_a_phone_no_name_is_broken_in_the_middle(tmp_path: Path) -> None:
    """390 px wide, what happened has a line of its own, and names break after their dots.

    Where no browser is installed, only what the other tests say about the page is tested.
    """
    program = find_browser()
    if program is None:
        print("no browser is installed: the page was not looked at")  # noqa: T201 -- a reader of the report should know
        return
    handler = "examples.notes_bot.notes.NotesPlugin.add_a_note_for_a_friend"
    where = Correlation(plugin="examples.notes_bot.notes", handler=handler, update_id=123456789)
    holder = f"unit 1, plugin {where.plugin}, handler {handler}, open 0.4 s"
    exhausted = {"topic": "pool.exhausted", "size": 1, "holders": (holder,)}
    facts = [UnitFact(run=2, at=101.0, correlation=where, **exhausted)]  # type: ignore[arg-type] # of a dict
    file = timeline.write(history(GOOD), tmp_path / "page.html", facts)
    async with Browser(program, tmp_path / "profile") as browser, browser.page() as page:
        await page.open(file, width=390, height=900, scheme="light")
        assert await page.value("document.documentElement.scrollWidth") == 390
        assert await page.value(NARROWEST) > 340
        assert await page.value(BROKEN) == []
        assert handler in await page.value("document.querySelector('tbody').innerText")


async def test_a_browser_shows_the_page(tmp_path: Path) -> None:
    """In a real browser the page draws every item, tells on hover, zooms, and asks for nothing.

    Where no browser is installed, only what the other tests say about the page is tested.
    """
    program = find_browser()
    if program is None:
        print("no browser is installed: the page was not looked at")  # noqa: T201 -- a reader of the report should know
        return
    file = timeline.write(history(GOOD), tmp_path / "page.html", UNITS)
    async with Browser(program, tmp_path / "profile") as browser:
        for width, scheme, paper in ((1200, "light", "255, 255, 255"), (390, "dark", "18, 22, 29")):
            async with browser.page() as page:
                await page.open(file, width=width, height=900, scheme=scheme)
                items = "document.querySelectorAll('#picture [data-item]').length"
                assert await page.value(items) == len(draw(history(GOOD), UNITS, began=100).items)
                assert await page.value("document.documentElement.scrollWidth") <= width
                shown = await page.value("getComputedStyle(document.body).backgroundColor")
                assert paper in shown
                assert colours(await page.screenshot()) > 50

                box = "document.querySelector('#picture .start').getBoundingClientRect()"
                x, y = [await page.value(f"{box}.{side} + 2") for side in "xy"]
                await page.mouse("mouseMoved", x, y)
                told = await page.value("document.getElementById('hover').innerText")
                assert told.splitlines()[0] in {"application start", "start db"}
                assert colours(await page.screenshot()) > 50

                await page.value("[...document.querySelectorAll('button')][1].click()")
                narrower = await page.value(f"{box}.width")
                assert narrower > width / 3
                await page.mouse("mousePressed", x, y, button="left", clickCount=1)
                await page.mouse("mouseMoved", x + 80, y, button="left", buttons=1)
                await page.mouse("mouseReleased", x + 80, y, button="left", clickCount=1)
                assert await page.value(f"{box}.x") > 0
                assert page.complaints == []
                assert page.requests == [file.as_uri()]
