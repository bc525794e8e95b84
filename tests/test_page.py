"""The page: escaped, whole, self-contained, and readable in a real browser where one is installed."""

import base64
import html
import io
import itertools
import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from PIL import Image

from analysis import report
from analysis.page import Section, page
from analysis.report import Report
from analysis.tables import Column, Table

HOSTILE = """<script>alert("x")</script><img src=https://evil.invalid/x onerror='y'> & </table></style> `&lt;b>`"""
VOID = {"meta", "link", "img", "br"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: list[str] = field(default_factory=list)


class Reader(HTMLParser):
    """All elements in their order with all text inside them; a tag that closes no open element is an error."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        self.close()
        assert not self.open, [element.tag for element in self.open]

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len(dict(attrs)), tag
        self.found.append(Element(tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(self.found[-1])

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag

    def handle_data(self, data):
        for element in self.open:
            element.text.append(data)

    def all(self, *tags):
        return [element for element in self.found if element.tag in tags]

    def texts(self, *tags):
        return ["".join(element.text) for element in self.all(*tags)]

    def values(self, attribute):
        return [element.attributes[attribute] for element in self.found if attribute in element.attributes]


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (1536, 40), "white").save(buffer, "png")
    return buffer.getvalue()


def wide_table(title="Wide", columns=20, rows=5):
    heads = (Column("the name of a row", right=False), *(Column(f"number {i}") for i in range(columns)))
    return Table(title, heads, tuple((f"row {i}", *(float(j) for j in range(columns))) for i in range(rows)))


def make_report(name="table3", title="Table 3: loss terms", **changes):
    main = Table(
        "Losses in `toy`",
        (Column("losses", right=False), Column("mIoU", 2), Column("status", right=False)),
        (("pce", -0.256, "done"), ("ce | <full>", None, HOSTILE)),
        ("mIoU in %, protocol `crop`.",),
    )
    values = {
        "profiles": ("toy",),
        "header": ("Made by `make ablation-losses PROFILE=toy`.",),
        "main": (main,),
        "claims": {"toy": Table("What the paper says", (Column("claim", right=False),), (("CRF helps",),))},
        "gaps": (f"pce, seed 1: failed: {HOSTILE}", "Fill with `make ablation-losses PROFILE=toy`"),
        "more": (wide_table(),),
        "appendix": (wide_table("Runs behind the table", 4, 60),),
        "data": {name: main, f"{name}_runs": main},
        "figures": {f"{name}_alpha=0.9+a:b": {"png": png(), "pdf": b"pdf"}, f"{name}_b": {"pdf": b"pdf"}},
    }
    return Report(name, title, **(values | changes))


def make_page():
    overview = [
        Section("Plan", (f"`make report` rebuilds: {HOSTILE}", "a" * 500)),
        Section("Verdicts", tables=(make_report().main[0],), opening=True),
    ]
    return page(f"Reports {HOSTILE}", [make_report(), make_report("plan", "A `plan`"), make_report("a b")], overview)


@pytest.fixture(scope="module")
def read():
    return Reader(make_page())


def test_the_page_is_balanced_and_says_what_it_is(read):
    assert read.found[0].attributes == {"lang": "en"}
    assert any(element.attributes.get("name") == "viewport" for element in read.all("meta"))
    assert len(read.all("h1")) == len(read.all("title")) == len(read.all("main")) == 1
    levels = [int(element.tag[1]) for element in read.all("h1", "h2", "h3")]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_hostile_text_is_shown_and_does_nothing(read):
    assert not read.all("script", "iframe", "object", "base")
    assert not [name for element in read.found for name in element.attributes if name.startswith("on")]
    shown = HOSTILE.replace("`", "")
    assert f"Reports {shown}" in read.texts("h1")
    assert f"pce, seed 1: failed: {shown}" in read.texts("li")
    assert shown in read.texts("td")
    assert "&lt;b>" in read.texts("code")


def test_every_block_is_in_the_contents(read):
    anchors = [value[1:] for value in read.values("href") if value.startswith("#")]
    # The first link is that of the opening figure; what stands above the contents is not in them.
    assert anchors == ["table3", "plan", "table3", "plan-2", "a-b"]
    identities = read.values("id")
    assert len(set(identities)) == len(identities)
    assert {*anchors, *read.values("aria-labelledby")} <= set(identities)


def test_every_link_is_a_file_that_the_report_writes(tmp_path):
    built = make_report()
    written = {path.name for path in report.write(built, tmp_path)}
    text = page("title", [built], [])
    (tmp_path / "index.html").write_text(text)
    links = [element.attributes["href"] for element in Reader(text).all("a")]
    files = [unquote(link) for link in links if not link.startswith("#")]
    assert set(files) == written
    assert all((tmp_path / file).is_file() for file in files)
    assert not any(":" in link for link in links)  # else a browser takes what stands before it for a scheme


def test_nothing_is_loaded(read):
    sources = read.values("src")
    assert sources == [f"data:image/png;base64,{base64.b64encode(png()).decode()}"] * 4
    assert not {"srcset", "action", "data", "poster", "style", "background"} & {
        name for element in read.found for name in element.attributes
    }
    assert [element.attributes for element in read.all("link")] == [{"rel": "icon", "href": "data:,"}]
    (style,) = read.texts("style")
    assert not [word for word in ("url(", "@import", "//", "http") if word in style]
    assert read.values("content")[0].startswith("default-src 'none'")


def test_a_report_without_gaps_and_figures_shows_neither():
    text = page("title", [make_report(gaps=(), figures={})], [])
    assert not Reader(text).all("figure", "h3", "small")
    assert "has gaps" in make_page()


def test_a_drawing_is_preferred_and_a_figure_is_described():
    figures = {"a": {"png": b"png", "svg": b"<svg/>"}}
    opening, own = Reader(page("title", [make_report(figures=figures)], [])).all("img")
    assert opening.attributes == own.attributes
    assert own.attributes["src"].startswith("data:image/svg+xml;base64,")
    assert own.attributes["alt"] == "Table 3: loss terms"


def test_the_page_opens_with_a_figure_and_the_verdicts_and_then_the_contents(read):
    blocks = [
        element.attributes.get("id") or element.tag
        for element in read.found
        if element.tag in ("h1", "figure", "section", "nav", "main")
    ]
    # Each of the three reports has one figure that a browser can show.
    reports = ["table3", "figure", "plan-2", "figure", "a-b", "figure"]
    assert blocks == ["h1", "figure", "verdicts", "nav", "main", "plan", *reports]


@pytest.mark.parametrize(
    ("claims", "opening"),
    [
        ({"a": False, "b": True, "c": True}, "b"),  # the first that judges claims
        ({"a": False, "b": False}, "a"),
        ({"a": True, "leads": True}, "leads"),
    ],
)
def test_the_figure_at_the_top_is_of_the_report_that_leads_or_of_the_first_that_judges_claims(claims, opening):
    figure = {"png": png()}
    reports = [make_report("none", "none", figures={"x": {"pdf": b"pdf"}})]
    for name, judges in claims.items():
        changes = {} if judges else {"claims": {}}
        reports.append(make_report(name, f"Report {name}", figures={name: figure}, leads=name == "leads", **changes))
    read = Reader(page("title", reports, []))
    assert read.texts("figcaption") == [f"Report {opening}"]
    assert read.all("img")[0].attributes["alt"] == f"Report {opening}"
    assert read.all("a")[0].attributes["href"] == f"{opening}.png"


def test_a_page_without_a_figure_and_verdicts_begins_with_the_contents():
    read = Reader(page("title", [make_report(figures={})], [Section("Plan", ("a",))]))
    assert [element.tag for element in read.all("figure", "nav", "section")] == ["nav", "section", "section"]


def test_a_table_in_html():
    text = page("title", [], [Section("Verdicts", tables=(make_report().main[0],))])
    read = Reader(text)
    assert read.texts("caption") == ["Losses in toy"]
    assert read.values("aria-label") == ["Losses in toy"]
    assert [element.attributes.get("scope") for element in read.all("th")] == ["col", "col", "col", "row", "row"]
    assert read.texts("li") == ["Verdicts", "mIoU in %, protocol crop."]
    assert '<td class="right">−0.26</td>' in text
    assert '<td class="right">–</td>' in text
    assert '<th scope="row">ce | &lt;full&gt;</th>' in text
    assert '<td class="long">' in text
    assert "protocol <code>crop</code>." in text


def test_equal_input_gives_an_equal_page():
    assert make_page() == make_page()


# -- a real browser ------------------------------------------------------------------------------------------------

CHROME = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

WRAPPER = """<!DOCTYPE html><iframe style="width: 360px; height: 800px; border: 0" srcdoc="{}"></iframe><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  page.querySelectorAll("details").forEach(part => part.open = true);
  const box = [...page.querySelectorAll(".scroll")].filter(part => part.scrollWidth > part.clientWidth).length;
  const root = page.documentElement;
  document.body.textContent = `widths ${{root.scrollWidth}} ${{root.clientWidth}}, ${{box}} boxes scroll`;
}};
</script>"""


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """A function that opens a text as a page: what came of it (stdout), what the browser logged (stderr)."""
    if CHROME is None:
        pytest.skip("no chromium, chromium-browser or google-chrome")
    folder = tmp_path_factory.mktemp("browser")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={folder}"]

    def show(text):
        place = folder / "index.html"
        place.write_text(text)
        command = [CHROME, *options, "--window-size=1200,900", "--dump-dom", place.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    if "<p>here" not in show("<!DOCTYPE html><p>here").stdout:
        pytest.skip(f"{CHROME} does not start, or may not read files in {folder}")
    return show


def test_chromium_shows_the_page_without_an_error(browse):
    shown = browse(make_page())
    assert "CONSOLE" not in shown.stderr
    read = Reader(shown.stdout)
    assert len(read.all("section")) == 5
    assert not read.all("script")


def test_chromium_never_scrolls_the_page_sideways_on_a_phone(browse):
    shown = browse(WRAPPER.format(html.escape(make_page()))).stdout
    width = int(shown.split("widths ")[1].split()[0])
    assert 0 < width <= 360, shown[-200:]
    assert ", 0 boxes" not in shown  # the wide tables scroll in their own boxes
