"""The published asv site loads nothing from other hosts, or publishing stops with an error that says why."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("asv", reason="the site plugin runs inside asv")

import asv
from asv.publishing import OutputPublisher
from asv.util import UserError

from tools import offline_site
from tools.offline_site import ASSETS, RELEASE, OfflineSite, check_offline, make_offline

# Spelled apart from the plugin's own patterns, so that a mistake in those does not hide itself here.
OUTSIDE_LOAD = re.compile(
    r"""<(?:script|link|img)[^>]*(?:src|href)=["']?(?:https?:)?//|url\(\s*["']?(?:https?:)?//|@import""", re.IGNORECASE
)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A stand-in for the folder into which asv 0.5.1 was installed: right names, small contents."""
    folder = tmp_path / "release"
    vendor = folder / "asv" / "www" / "vendor"
    vendor.mkdir(parents=True)
    for name in ASSETS.values():
        (vendor / name).write_text(f"/* {name} (http://example.org) */ a{{}}")
    font = "@font-face{font-family:icons;src:url(../fonts/icons.eot)}"
    with (vendor / "bootstrap-3.1.0.min.css").open("a") as css:
        css.write(font + "b{background:url(data:image/png;base64,AA)}")
    licenses = folder / "asv-0.5.1.dist-info" / "licenses"
    licenses.mkdir(parents=True)
    (licenses / "LICENSE.rst").write_text("BSD")
    return folder


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """What `asv publish` lays down before any publisher runs: the installed asv's pages."""
    return Path(shutil.copytree(Path(asv.__file__).parent / "www", tmp_path / "site"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_offline(site: Path) -> None:
    html = (site / "index.html").read_text()
    assets = re.findall(r'(?:src|href)="(assets/[^"]+)"', html)
    assert sorted(assets) == sorted(f"assets/{name}" for name in ASSETS.values())
    assert all((site / asset).stat().st_size for asset in assets)
    for path in site.rglob("*"):
        if path.suffix in {".html", ".css", ".js"}:
            assert not OUTSIDE_LOAD.search(path.read_text()), path
    assert not re.search(r"integrity|crossorigin|referrerpolicy", html)


def test_stock_pages_do_load_from_other_hosts(site: Path) -> None:
    assert OUTSIDE_LOAD.search((site / "index.html").read_text())
    with pytest.raises(UserError, match=r"code\.jquery\.com"):
        check_offline(site)


def test_rewritten_pages_load_only_what_lies_beside_them(site: Path, release: Path) -> None:
    make_offline(site, release)
    assert_offline(site)
    assert (site / "assets" / "LICENSE.rst").read_text() == "BSD"
    html = (site / "index.html").read_text()
    assert html.count('onerror="js_load_failure()"') == 9, "a lost asset must still lead to asv's error page"
    assert 'href="https://github.com/airspeed-velocity/asv/"' in html, "a link that a reader follows may stay"


def test_the_real_release_has_every_asset(site: Path) -> None:
    if not RELEASE.is_dir():
        pytest.skip(f"asv 0.5.1 is not installed in {RELEASE}")
    make_offline(site, RELEASE)
    assert_offline(site)
    assert "jQuery v3.3.1" in (site / "assets" / "jquery-3.3.1.min.js").read_text()
    assert (site / "assets" / "LICENSE.rst").is_file()


def test_scripts_keep_their_order(site: Path, release: Path) -> None:
    scripts = re.compile(r"""<script[^>]*?\bsrc="([^"]+)""")
    before = scripts.findall((site / "index.html").read_text())
    make_offline(site, release)
    after = scripts.findall((site / "index.html").read_text())
    assert after == [f"assets/{ASSETS[address]}" if address in ASSETS else address for address in before]


def test_a_second_publish_changes_nothing(site: Path, release: Path) -> None:
    make_offline(site, release)
    first = contents(site)
    make_offline(site, release)
    assert contents(site) == first


def test_asv_runs_it_after_its_own_publishers(site: Path, release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline_site, "RELEASE", release)
    OfflineSite.publish(SimpleNamespace(html_dir=str(site)), None, None, None, None)
    assert_offline(site)
    assert max(OutputPublisher.__subclasses__(), key=lambda cls: cls.order) is OfflineSite


def test_a_missing_release_is_named_with_the_command_that_installs_it(site: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"jquery-3\.3\.1\.min\.js(.|\n)*pip install .* asv==0\.5\.1"):
        make_offline(site, tmp_path / "nowhere")


def test_a_single_missing_asset_is_named(site: Path, release: Path) -> None:
    (release / "asv" / "www" / "vendor" / "md5.js").unlink()
    with pytest.raises(UserError, match=r"md5\.js"):
        make_offline(site, release)


def test_an_empty_asset_is_named(site: Path, release: Path) -> None:
    (release / "asv" / "www" / "vendor" / "stupidtable.js").write_text("")
    with pytest.raises(UserError, match=r"assets/stupidtable\.js, which is missing or empty"):
        make_offline(site, release)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("index.html", '<script src="https://cdn.example.org/new.js"></script>', id="script"),
        pytest.param("index.html", "<script src=//cdn.example.org/new.js></script>", id="no quotes, no scheme"),
        pytest.param("index.html", "<img src='https://cdn.example.org/new.js'>", id="image"),
        pytest.param("index.html", "<script>import('https://cdn.example.org/new.js')</script>", id="inline script"),
        pytest.param("index.html", "<style>a{b:url(//cdn.example.org/new.js)}</style>", id="inline style"),
        pytest.param("error.html", '<link href="https://cdn.example.org/new.js" rel="stylesheet">', id="other page"),
        pytest.param("asv.js", '$.getScript("https://cdn.example.org/new.js");', id="script of a script"),
        pytest.param("asv.css", '@import "https://cdn.example.org/new.js";', id="style of a style"),
        pytest.param("asv.css", "a{b:url(https://cdn.example.org/new.js)}", id="font or image of a style"),
    ],
)
def test_an_unknown_outside_reference_is_named(site: Path, release: Path, name: str, text: str) -> None:
    with (site / name).open("a") as page:
        page.write(text)
    with pytest.raises(UserError, match=rf"{re.escape(name)} loads \S*//cdn\.example\.org/new\.js .*ASSETS"):
        make_offline(site, release)


def test_a_lost_local_file_is_named(site: Path, release: Path) -> None:
    (site / "summarygrid.js").unlink()
    with pytest.raises(UserError, match=r"summarygrid\.js, which is missing"):
        make_offline(site, release)


def add_library(site: Path, head: str) -> None:
    """A chart library that spells out another host, and a page that loads it."""
    (site / "assets").mkdir()
    (site / "assets" / "plotly.min.js").write_text('tiles = "https://tiles.example.org/"')
    (site / "charts.html").write_text(f"<html><head>{head}</head></html>")


LIBRARY = '<script src="assets/plotly.min.js"></script>'


def test_a_bundled_library_may_spell_out_hosts_that_the_browser_refuses(site: Path, release: Path) -> None:
    policy = "default-src 'self' data:; style-src 'self' 'unsafe-inline'"
    add_library(site, f'<meta http-equiv="Content-Security-Policy" content="{policy}">{LIBRARY}')
    make_offline(site, release)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(LIBRARY, id="no policy"),
        pytest.param(
            """<meta http-equiv="Content-Security-Policy" content="default-src 'self' https:">""" + LIBRARY,
            id="all hosts",
        ),
        pytest.param(
            """<meta http-equiv="Content-Security-Policy" content="default-src 'self'; img-src tiles.example.org">"""
            + LIBRARY,
            id="one host",
        ),
        pytest.param(
            """<meta http-equiv="Content-Security-Policy" content="script-src 'self'">""" + LIBRARY, id="scripts only"
        ),
        pytest.param(
            LIBRARY + """<meta http-equiv="Content-Security-Policy" content="default-src 'self'">""", id="too late"
        ),
        pytest.param("", id="no page loads it"),
    ],
)
def test_a_bundled_library_on_a_page_that_lets_it_ask_is_refused(site: Path, release: Path, head: str) -> None:
    add_library(site, head)
    with pytest.raises(UserError, match=r"plotly\.min\.js loads https://tiles\.example\.org/"):
        make_offline(site, release)
