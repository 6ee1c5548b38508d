"""The published site in headless Chromium: its numbers, its links, the keyboard, a phone, the dark, no request out."""

import functools
import http.server
import json
import shutil
import threading
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("asv", reason="the site is made by asv")
pytest.importorskip("plotly", reason="the site's charts are drawn by plotly.js")
pytest.importorskip("playwright", reason="the browser is driven by Playwright")

from playwright.sync_api import sync_playwright

from tests import site_results
from tests.site_results import SLOWER
from tools.offline_site import RELEASE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine (Debian: apt install chromium)", allow_module_level=True)
if not RELEASE.is_dir():
    pytest.skip(f"asv 0.5.1, whose scripts the site takes, is not installed in {RELEASE}", allow_module_level=True)

TOKENS = [1, 128, 1024, 8192, 131072]
ROPE = ["Llama-3.1-8B tp1", "Llama-3.1-70B tp8"]
MROPE = ["Qwen2-VL-7B tp1", "Qwen2.5-VL-72B tp8", "Qwen3-VL-8B tp1", "GLM-4.1V-9B tp1"]
MODEL = MROPE[0]
PROVIDERS = ["native", "triton", "flashinfer"]
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}

READY = "document.querySelectorAll('.js-plotly-plot .scatterlayer').length >= 2"
SELECT = """(hash) => new Promise((done) => {
  addEventListener("hashchange", () => setTimeout(done), { once: true });
  location.hash = hash;
})"""
GRID = """[...document.querySelectorAll("#grid tbody tr")].map((row) => [
  row.cells[0].firstChild.textContent,
  [...row.querySelectorAll("button")].map((cell) => [cell.dataset.value, cell.textContent])])"""
TABLE = """(id) => [...document.querySelectorAll(`#${id} tbody tr`)].map((row) =>
  [...row.cells].map((cell) => cell.dataset.value).filter((value) => value !== undefined))"""
TRACES = """(id) => document.getElementById(id).data.map(({ name, x, y, fill, line, marker }) => (
  { name, x, y, isBand: Boolean(fill), dash: line.dash, symbol: marker?.symbol, colour: marker?.color }))"""
ROWS = """[...document.querySelectorAll("#summarylist-body tbody tr")].map(({ cells }) =>
  [cells[0].textContent, cells[1].textContent])"""
FOCUS = """(() => { const { id, tagName, parentElement } = document.activeElement;
  return id || tagName + (parentElement?.closest("[id]")?.id ?? ""); })()"""
NAMELESS = """[...document.querySelectorAll("select, input, button")].filter((one) => !one.hidden
  && !one.labels?.length && !one.getAttribute("aria-label") && !one.textContent.trim()).map((one) => one.outerHTML)"""
CUT = """[...document.querySelectorAll("#grid button, #grid th, select")].filter((one) =>
  one.getBoundingClientRect().right > 360.5 || (one.tagName !== "SELECT" && one.scrollWidth > one.clientWidth + 1))
  .map((one) => one.textContent)"""
TOO_SMALL = """[...document.querySelectorAll("select, #grid button")]
  .filter((one) => one.getBoundingClientRect().height < 36).map((one) => one.outerHTML)"""
INKS = """[...document.querySelectorAll("h2, p, label, td, th, dt, dd, li, #latency .xtick text")].map((one) => {
  const style = getComputedStyle(one);
  return one.tagName === "text" ? style.fill : style.color; })"""
PAINTS = """[...document.querySelectorAll("#grid button")].map(({ style }) => [style.color, style.backgroundColor])"""


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    return site_results.make(tmp_path_factory.mktemp("site") / "repository")


@pytest.fixture(scope="module")
def folder(history):
    site_results.publish(history, history.folder.parent / "html")
    return history.folder.parent / "html"


@pytest.fixture(scope="module")
def address(folder):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_):
            pass  # the start page leaves before its scripts have come

    with Server(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Site:
    """A browser in which every error of a page and every request that leaves the site is kept."""

    def __init__(self, browser, address):
        self.address = address
        self.problems = []
        self.browser = browser
        self.context = browser.new_context()

    def visit(self, path="speedup.html", at="", **options):
        """A new page; with options, in a context of its own."""
        at = at or self.address
        page = (self.browser.new_context(**options) if options else self.context).new_page()
        page.on("console", lambda said: self.problems.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda asked: self.on_request(asked.url, at))
        page.goto(f"{at}/{path}")
        if path.startswith("speedup.html"):
            page.wait_for_function(READY)
        return page

    def on_request(self, url, at):
        if not url.startswith((at, "data:", "blob:")):
            self.problems.append(url)


@pytest.fixture(scope="module")
def module_site(address):
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield Site(browser, address)
        browser.close()


@pytest.fixture
def site(module_site):
    yield module_site
    problems, module_site.problems = module_site.problems, []
    assert not problems


@pytest.fixture(scope="module")
def module_page(module_site):
    return module_site.visit()


@pytest.fixture
def page(site, module_page):
    """The Speedup page, loaded once: drawing it anew is quick, loading plotly.js is not."""
    return module_page


def fragment(**selection):
    return "&".join(
        f"{key}={str(value)[:8] if key in {'commit', 'base'} else value}" for key, value in selection.items()
    )


def show(page, **selection):
    """Let the page show a selection, by its address."""
    # An address that does not change is no event: the page forgets the visit, so it always changes.
    page.evaluate(SELECT, fragment(**{"metric": "triton-over-native", "visit": 1, **selection}))


def selection(page):
    """What the address holds."""
    return {key: values[0] for key, values in parse_qs(urlsplit(page.url).fragment).items()}


def grid(page):
    """Model -> for each token count the exact number and how it is written."""
    return dict(page.evaluate(GRID))


def exact(page):
    return {model: [float(number) for number, _ in row] for model, row in grid(page).items()}


def lines(page, chart):
    """Name -> trace; bands are left out."""
    return {trace["name"]: trace for trace in page.evaluate(TRACES, chart) if not trace["isBand"]}


def close(found, wanted):
    return found == pytest.approx(wanted, rel=1e-5)


def microseconds(history, commit, provider, model=MODEL, tokens=TOKENS):
    return [1e6 * history.seconds("h100", commit, provider, model, count) for count in tokens]


def test_the_site_opens_with_the_speedup_page_and_leads_to_asvs(site):
    page = site.visit("")
    page.wait_for_url("**/speedup.html#*")
    assert page.locator("h1").text_content() == "Speedup"
    page.get_by_role("link", name="Benchmark list").click()
    page.locator("#summarylist-body table").wait_for()
    page.get_by_role("link", name="Benchmark grid").click()
    page.locator("#summarygrid-display .benchmark-container").first.wait_for()
    page.get_by_role("link", name="Speedup").click()
    page.wait_for_url("**/speedup.html#*")


def test_every_chart_has_its_data(page, history):
    commit = history.commits[3]
    show(page, commit=commit, model=MODEL, tokens=1024)
    found = lines(page, "latency")
    assert list(found) == ["roofline", *PROVIDERS]
    for provider in PROVIDERS:
        assert found[provider]["x"] == TOKENS
        assert close(found[provider]["y"], microseconds(history, commit, provider))
    share = "bench_relative.RelativeToRoofline.track_triton"
    floor = [
        time / history.number("h100", commit, share, MODEL, count)
        for count, time in zip(TOKENS, microseconds(history, commit, "triton"), strict=True)
    ]
    assert close(found["roofline"]["y"], floor)
    axes = page.evaluate("['xaxis', 'yaxis'].map((name) => document.getElementById('latency').layout[name].type)")
    assert axes == ["log", "log"]
    steps = lines(page, "steps-chart")
    assert list(steps) == PROVIDERS
    for provider in PROVIDERS:
        stored = {one: history.seconds("h100", one, provider, MODEL, 1024) for one in history.commits[:12]}
        wanted = {one[:8]: 1e6 * seconds for one, seconds in stored.items() if seconds is not None}
        assert close(dict(zip(steps[provider]["x"], steps[provider]["y"], strict=True)), wanted)


def test_bands_are_the_stored_intervals(page, history):
    commit = history.commits[3]
    show(page, commit=commit, model=MODEL)
    bands = {trace["name"]: trace["y"] for trace in page.evaluate(TRACES, "latency") if trace["isBand"]}
    assert list(bands) == [f"{provider}, interval" for provider in PROVIDERS]
    for provider, band in zip(PROVIDERS, bands.values(), strict=True):
        benchmark = f"bench_mrope.Mrope.time_{provider}"
        low, high = (
            [1e6 * history.number("h100", commit, benchmark, MODEL, count, column) for count in TOKENS]
            for column in ("stats_ci_99_a", "stats_ci_99_b")
        )
        assert close(band, [*high, *low[::-1]])


def test_markers_and_colours_differ_by_provider(page, history):
    show(page, commit=history.commits[3])
    looks = [(trace["symbol"], trace["colour"]) for name, trace in lines(page, "latency").items() if name in PROVIDERS]
    assert looks == [("square", "#e69f00"), ("circle", "#0072b2"), ("triangle-up", "#009e73")]


@pytest.mark.parametrize(
    ("metric", "above", "below"),
    [
        ("triton-over-native", "native", "triton"),
        ("flashinfer-over-native", "native", "flashinfer"),
        ("triton-over-flashinfer", "flashinfer", "triton"),
        ("triton-time", "triton", None),
        ("triton-roofline", None, "bench_relative.RelativeToRoofline.track_triton"),
        ("flashinfer-roofline", None, "bench_relative.RelativeToRoofline.track_flashinfer"),
    ],
)
def test_the_grid_shows_the_numbers_of_the_results(page, history, metric, above, below):
    commit = history.commits[3]

    def stored(name, model, tokens):
        if name is None:
            return 1
        if "." in name:
            return history.number("h100", commit, name, model, tokens)
        return history.seconds("h100", commit, name, model, tokens)

    show(page, commit=commit, metric=metric)
    assert list(grid(page)) == [*ROPE, *MROPE]
    for model, row in grid(page).items():
        for count, (number, text) in zip(TOKENS, row, strict=True):
            wanted = stored(above, model, count) / stored(below, model, count)
            assert close(float(number), wanted)
            written, _, unit = text.replace("%", "\u00a0%").partition("\u00a0")
            scale, step = {"": (1, 0.05), "%": (0.01, 0.5), "\u00b5s": (1e-6, 0.5), "ms": (1e-3, 0.005)}[unit]
            assert float(written) * scale == pytest.approx(wanted, rel=0.006, abs=scale * step if unit == "%" else 0)


def test_the_tables_show_the_numbers_of_the_results(page, history):
    commit = history.commits[3]
    show(page, commit=commit, model=MODEL, tokens=128)
    columns = zip(*page.evaluate(TABLE, "numbers"), strict=True)
    for provider, column in zip(PROVIDERS, columns, strict=True):
        assert close([1e6 * float(value) for value in column], microseconds(history, commit, provider))
    for one, row in zip(history.commits[11::-1], page.evaluate(TABLE, "steps"), strict=True):
        for provider, value in zip(PROVIDERS, row, strict=True):
            stored = history.seconds("h100", one, provider, MODEL, 128)
            assert value == "\u2013" if stored is None else close(float(value), stored)


def test_steps_name_the_commit_the_change_and_its_direction(page, history):
    show(page, model=MODEL, tokens=8192, moved=1, scale="relative")
    row = page.locator("#steps tbody tr", has_text=history.commits[8][:8])
    assert row.locator(".slower").text_content() == "+30\u00a0% slower"
    assert "faster" in page.locator("#steps tbody tr", has_text=history.commits[3][:8]).text_content()
    assert page.locator("#steps tbody tr", has_text=history.commits[6][:8]).is_hidden()
    assert f"{site_results.SUBJECT} 8" in row.text_content(), "a subject is text, not markup"
    triton = lines(page, "steps-chart")["triton"]
    relative = dict(zip(triton["x"], triton["y"], strict=True))
    first, last = (history.seconds("h100", history.commits[at], "triton", MODEL, 8192) for at in (0, 11))
    assert close(relative[history.commits[11][:8]], 100 * last / first)
    assert history.commits[12][:8] not in relative, "a commit beside main is not in its history"
    assert page.locator("#commit option", has_text="not on a published branch").count() == 1


def test_changes_of_the_environment_are_marked(page, history):
    show(page)
    marks = "document.getElementById('steps-chart').layout.annotations.map(({ x, text }) => [x, text])"
    assert page.evaluate(marks) == [[1, "torch"]]
    row = page.locator("#steps tbody tr", has_text=history.commits[1][:8])
    assert "torch 2.10.0 \u2192 2.11.0" in row.text_content()
    names, values = (page.locator(f"#environment {tag}").all_text_contents() for tag in ("dt", "dd"))
    wanted = {"gpu": "NVIDIA H100 80GB HBM3", "torch": "2.11.0", "driver": "580.1"}
    assert wanted.items() <= dict(zip(names, values, strict=True)).items()
    show(page, base=history.commits[0])
    assert f"2.11.0 ({history.commits[0][:8]}: 2.10.0)" in page.locator("#environment").text_content()


def test_two_commits_side_by_side(page, history):
    now, before = history.commits[11], history.commits[3]
    show(page, commit=now, base=before, metric="triton-time", model=MODEL)
    wanted = dict.fromkeys(ROPE, 1) | dict.fromkeys(MROPE, 1 / SLOWER)
    assert all(close(row, [wanted[model]] * 5) for model, row in exact(page).items())
    assert "above 1 is better" in page.locator("#grid-note").text_content()
    found = lines(page, "latency")
    assert close(found["triton"]["y"], microseconds(history, now, "triton"))
    assert close(found[f"triton, {before[:8]}"]["y"], microseconds(history, before, "triton"))
    assert (found["triton"]["dash"], found[f"triton, {before[:8]}"]["dash"]) == ("solid", "dash")
    page.select_option("#metric", "triton-over-native")
    assert close(exact(page)[MODEL], [1 / SLOWER] * 5), "of a speedup, too, above 1 is better"


def test_a_commit_with_triton_alone_says_so(page, site, history):
    commit = history.commits[2]
    show(page, commit=commit, metric="triton-over-native")
    assert {text for row in grid(page).values() for _, text in row} == {"\u2013"}
    assert list(lines(page, "latency")) == ["roofline", "triton"]
    assert "has no times of native, flashinfer" in page.locator("#latency-note").text_content()
    page.get_by_role("button", name="Show share of the roofline, triton").click()
    assert len(exact(page)) == 6
    page.evaluate(SELECT, fragment(commit=commit))
    assert selection(page)["metric"] == "triton-roofline", "the first that this commit has"


def test_a_machine_without_a_gpu_comes_last(page, history):
    show(page)
    assert page.locator("#machine option").all_text_contents() == ["h100 (NVIDIA H100 80GB HBM3)", "a-cpu"]
    page.select_option("#machine", "a-cpu")
    counts = [1, 16, 128, 512]
    assert page.locator("#grid thead th").all_text_contents() == ["tokens", *map(str, counts)]
    for model, row in exact(page).items():
        stored = [history.number("a-cpu", history.commits[11], "bench_cpu.Cpu.time_native", model, at) for at in counts]
        assert close(row, stored)
    assert list(lines(page, "latency")) == ["native"]


def test_a_link_restores_the_selection(site, page, history):
    page.evaluate(SELECT, "")
    assert selection(page)["commit"] == history.commits[11][:8], "the latest of main"
    commit, base = history.commits[3], history.commits[0]
    chosen = {"commit": commit, "base": base, "metric": "flashinfer-time", "model": MODEL, "tokens": "128"}
    for control, value in chosen.items():
        page.select_option(f"#{control}", value)
    page.select_option("#scale-of-steps", "relative")
    page.check("#moved")
    wanted = {**chosen, "commit": commit[:8], "base": base[:8], "machine": "h100", "scale": "relative", "moved": "1"}
    assert selection(page) == wanted
    other = site.visit(f"speedup.html#{urlsplit(page.url).fragment}")
    assert (selection(other), grid(other)) == (wanted, grid(page))
    assert {control: other.input_value(f"#{control}") for control in chosen} == chosen
    assert other.is_checked("#moved")


def test_an_address_that_asks_for_what_is_not_there_is_answered(page, history):
    show(page, machine="h10", commit="0000", metric="x", model="x", tokens="13107")
    assert "machine h10, commit 0000, metric x, model x, tokens 13107" in page.locator("#problem").text_content()
    assert selection(page)["commit"] == history.commits[11][:8]
    show(page)
    assert page.locator("#problem").is_hidden()


def test_the_keyboard_reaches_every_control_and_shows_where_it_is(page, history):
    show(page, model=MODEL, tokens=1024, commit=history.commits[5])
    page.get_by_role("link", name="Regressions").focus()
    reached = []
    while "BUTTONsteps" not in reached:
        page.keyboard.press("Tab")
        reached.append(found := page.evaluate(FOCUS))
        assert len(reached) < 40, reached
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", found
    form = ["machine", "commit", "base", "earlier", "history", "later", "model", "metric", "BUTTONgrid"]
    controls = [*form, "tokens", "scale-of-steps", "moved", "BUTTONsteps"]
    assert [found for found in dict.fromkeys(reached) if found in controls] == controls
    assert reached.count("BUTTONgrid") == 1, "the grid is one stop of the tab key"
    assert page.evaluate(NAMELESS) == []


def test_the_keyboard_moves_slider_and_grid(page, history):
    show(page, model=MODEL, tokens=1024, commit=history.commits[11])
    page.focus("#history")
    page.keyboard.press("ArrowLeft")
    assert selection(page)["commit"] == history.commits[10][:8]
    assert history.commits[10][:8] in page.get_attribute("#history", "aria-valuetext")
    page.focus('#grid [tabindex="0"]')
    for key in ("ArrowDown", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    assert (selection(page)["model"], selection(page)["tokens"]) == ("Qwen2.5-VL-72B tp8", "8192")
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    assert page.locator("#steps-title").text_content() == "History of Qwen2.5-VL-72B tp8 at 8192 tokens"


def test_a_point_of_the_history_leads_to_its_commit(page, history):
    show(page, model=MODEL, tokens=1024, commit=history.commits[5])
    page.locator("#steps-chart").scroll_into_view_if_needed()
    place = page.locator("#steps-chart .scatterlayer .points path").first.bounding_box()
    page.mouse.click(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    page.wait_for_function("(commit) => location.hash.includes(commit)", arg=history.commits[0][:8], timeout=5000)


def test_a_phone_shows_it_without_scrolling_sideways(site, history):
    page = site.visit(**PHONE)
    two = {"base": history.commits[0], "metric": "triton-time"}
    for chosen in ({}, {"machine": "a-cpu", "metric": "native-time"}, two):
        show(page, **chosen)
        assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]
        assert page.evaluate(CUT) == [], "cut off"
        assert page.evaluate(TOO_SMALL) == [], "for a finger"


def luminance(colour):
    parts = [int(part) / 255 for part in colour.strip("rgb()").split(",")[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_light_and_dark_can_be_read(page, history, scheme):
    page.emulate_media(color_scheme=scheme)
    ink = {"dark": "#e6e9ed", "light": "#1b1f24"}[scheme]
    page.wait_for_function("(ink) => document.getElementById('latency').layout.font.color === ink", arg=ink)
    ground = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (ground < 0.02) == (scheme == "dark")
    for chosen in ({}, {"base": history.commits[0], "metric": "triton-time"}):
        show(page, **chosen)
        pairs = [(luminance(colour), ground) for colour in set(page.evaluate(INKS))]
        pairs += [(luminance(text), luminance(paint)) for text, paint in page.evaluate(PAINTS)]
        assert all((max(pair) + 0.05) / (min(pair) + 0.05) >= 4.5 for pair in pairs), "WCAG's AA"


def test_it_works_without_a_server(site, folder):
    assert list(lines(site.visit(at=folder.as_uri()), "latency")) == ["roofline", *PROVIDERS]


def test_the_browser_itself_refuses_other_hosts(site, page):
    assert page.evaluate("fetch('https://example.org/').then(() => 'answered', () => 'refused')") == "refused"
    assert len(site.problems) == 2
    assert all("Content Security Policy" in problem for problem in site.problems), "said by the browser, nothing sent"
    site.problems.clear()


def test_asvs_list_opens_with_the_gpu_machine_and_sorts_counts_as_numbers(site):
    page = site.visit("index.html#/summarylist")
    page.locator("#summarylist-body thead th.asc").wait_for()
    assert "h100" in page.locator("#summarylist-navigation .btn.active").all_text_contents()
    rows = page.evaluate(ROWS)
    names = [name for name, _ in rows if name.startswith("bench_mrope.Mrope.time_triton ('Qwen2-VL-7B")]
    assert [name.split(", ")[1] for name in names] == [f"{count})" for count in TOKENS]
    is_blank = [not value for _, value in rows]
    assert is_blank == sorted(is_blank), "n/a rows come last"
    assert any(is_blank)


def test_a_cell_leads_to_asvs_graph_of_it(site):
    page = site.visit(f"speedup.html#{fragment(model=MODEL, tokens=1024)}")
    page.locator("#graphs").get_by_role("link", name="triton").click()
    page.locator("#main-graph canvas").first.wait_for()
    assert page.locator("#title").text_content() == "bench_mrope.Mrope.time_triton"
    active = page.locator("#graphdisplay-navigation-params .btn.active").all_text_contents()
    assert active == ["commit", MODEL, "1024"]


def test_asvs_graphs_leave_out_machines_without_numbers(site):
    page = site.visit("index.html#bench_mrope.Mrope.time_triton?x-axis=num_tokens")
    page.locator("#main-graph canvas").first.wait_for()
    active = page.locator("#graphdisplay-state-params .btn.active").all_text_contents()
    assert "h100" in active
    assert "a-cpu" not in active
    assert page.locator("#main-graph .flot-x-axis .flot-tick-label").all_text_contents() == [*map(str, TOKENS)]


def test_regressions_are_slower_times_and_nothing_else(site, folder):
    listed = json.loads((folder / "regressions.json").read_text())["regressions"]
    triton = [one for one in listed if one[0].startswith("bench_mrope.Mrope.time_triton")]
    assert len(triton) == len(MROPE) * len(TOKENS)
    assert [last / best for _, _, _, _, last, best, _ in triton] == pytest.approx([SLOWER] * 20, rel=1e-3)
    assert all(jump[3] > jump[2] for one in listed for jump in one[6])
    assert not any("RelativeToNative" in one[0] or "track_registers" in one[0] for one in listed)
    page = site.visit("index.html#/regressions")
    page.locator("#regressions-body tbody tr").first.wait_for()
    assert page.get_by_text("1.30x").count() == len(triton)
