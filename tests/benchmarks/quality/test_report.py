import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anycost.benchmarks.quality import html, plot, report, tables
from anycost.errors import InputError
from anycost.runtime.budget import Budget
from anycost.runtime.choose import Row
from anycost.runtime.manifest import EngineRecord, FileRecord, ParityRecord, SubnetRecord
from anycost.runtime.profile import Measurement
from anycost.runtime.quality import (
    EngineQuality,
    FdParity,
    Interval,
    NetworkQuality,
    Pair,
    Quality,
    SubnetQuality,
)

BUDGET = Budget(latency_ms=9)
HOSTILE = '<script>alert("1")</script> | `x` *y* & [z](http://example.org)'
# name: resolution, MACs, p95 of onnxruntime (openvino takes half), FD to data.
NETS = {
    "0.5@32": (32, 52_400_000, 4.0, 41.25),
    "0.5@64": (64, 104_800_000, 10.0, 20.5),
    "1@64": (64, 1.2e9, 30.0, 7.125),
}


def around(value: float) -> Interval:
    return Interval(value=value, low=value * 0.9, high=value * 1.1)


def rows(timed=True) -> list[Row]:
    found = []
    for name, (side, macs, p95, _) in NETS.items():
        net = SubnetRecord(
            name=name, resolution=side, channels=(8,), ratio=0.5, macs=int(macs), parameters=1, distance=0.25
        )
        for backend, speed, memory in (("onnxruntime", 1.0, 100), ("openvino", 0.5, 200)):
            engine = EngineRecord(
                network=name,
                backend=backend,
                targets=("cpu-x86_64",),
                inputs={},
                outputs={},
                precision="fp32",
                folder=f"engines/{name}",
                key="a" * 64,
                versions={},
                files={"model": FileRecord(sha256="b" * 64, size=1)},
                weights_bytes=1,
                parity=ParityRecord(max_abs=0, psnr_db=100, ssim=1),
            )
            times = Measurement(p50_ms=p95 * speed * 0.9, p95_ms=p95 * speed, load_ms=1, memory_mb=memory, runs=10)
            misfit = f"p95 {p95 * speed:.2f} ms is above 9" if p95 * speed > 9 else ""
            chosen = engine.name == "0.5@64/openvino"
            found.append(
                Row(
                    net,
                    engine,
                    times if timed else None,
                    misfit if timed else "",
                    chosen=chosen,
                    quality=20.5,
                    ranked_by="FD-avatar to data",
                )
            )
    return found


def quality(**changes) -> Quality:
    data = "data" not in changes or changes["data"]
    subnets, engines = {}, {}
    for name, (*_, fd) in NETS.items():
        full = name == "1@64"
        subnets[name] = SubnetQuality(
            full=Pair(psnr_db=100, ssim=1, distance=0) if full else Pair(psnr_db=23.456, ssim=0.81234, distance=0.1234),
            fd_full=Interval(value=0, low=0, high=0) if full else around(fd - 5),
            fd_data=around(fd) if data else None,
            ppl=123.456 if full else None,
            consistency=0.9321,
        )
        for backend in ("onnxruntime", "openvino"):
            bad = (name, backend) == ("0.5@32", "openvino")
            engines[f"{name}/{backend}"] = EngineQuality(
                key="a" * 64,
                own=Pair(psnr_db=78.25, ssim=0.99997, distance=0.00041),
                full=subnets[name].full,
                fd_own=around(0.005),
                fd_data=around(fd + 0.01) if data else None,
                parity=FdParity(difference=5.5 if bad else 0.01, bound=4.25, passed=not bad) if data else None,
            )
    values = {
        "images": 2000,
        "psi": 0.7,
        "measure": "FD-avatar",
        "distance": "pyramid distance (NLPD)",
        "data": "held-out avatars",
        "data_count": 512,
        "source_sha256": "c" * 64,
        "subnets": subnets,
        "engines": engines,
    }
    return Quality(**(values | changes))


def cells(text: str, row: str) -> list[list[str]]:
    """The cells of the Markdown rows that begin with this name, plain or bold."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    found = [[cell.strip() for cell in line] for line in lines]
    return [line[1:] for line in found if line[0].split(" (")[0].strip("*") == row]


def test_markdown_has_every_figure_with_sensible_digits():
    text = report.markdown(quality(), rows())
    assert cells(text, "0.5@32") == [
        [
            "52.4 M",
            "23.5 dB",
            "0.812",
            "0.123",
            "41 (37 to 45)",
            "36 (33 to 40)",
            "-",
            "93.2%",
            "1.80 / 2.00 ms (openvino)",
        ]
    ]
    (full,) = cells(text, "1@64")
    assert full[:6] == ["1.20 G", "identical", "1", "0", "7.1 (6.4 to 7.8)", "0"] and full[6] == "123"
    assert cells(text, "0.5@32/openvino")[0][-1] == r"FAIL (5.5 \> 4.2)"
    assert cells(text, "0.5@64/openvino")[0][-1] == "pass (0.010 ≤ 4.2)"
    assert "**0.5@64/openvino** (chosen)" in text and text.count("(chosen)") == 1
    for words in ("2000 images", "seeds 0 to 1999", "psi 0.7", "held-out avatars (512 pictures)", "pyramid distance"):
        assert words in text
    assert "PPL of" not in text and "PPL except of 1@64 (left out" in text


def test_rows_of_a_table_have_as_many_cells_as_its_head():
    nets = {
        "inpainter": NetworkQuality(kind="net", figures={"a.psnr_db": 20.0, "a.b.psnr_db": 10.0, "a.missing": 0.25})
    }
    for found in (quality(networks=nets), quality(data="", engines={})):
        made = [tables.subnet_table(found, rows()), tables.engine_table(found, rows(), speed=True)]
        for table in made + tables.network_tables(found):
            assert {len(row) for row in table.rows} == {len(table.columns)}


def test_figures_of_other_networks_by_case():
    figures = {
        "central.psnr_db": 24.31,
        "central.border mean.psnr_db": 20.0,
        "central.missing": 0.25,
        "pictures": 200.0,
    }
    nets = {"inpainter": NetworkQuality(kind="context-encoder", figures=figures)}
    text = report.markdown(quality(networks=nets), rows())
    assert "inpainter (context-encoder, 200 pictures):" in text
    assert cells(text, "central") == [["24.3 dB", "25.0%"]]
    assert cells(text, "central, border mean") == [["20.0 dB", "25.0%"]]  # the same masks
    assert report.markdown(quality(), rows()).count("|---|") == 2


@pytest.mark.parametrize(
    ("figures", "caption", "titles"),
    [
        ({"pictures": 200.0, "styles": 32.0, "diversity": 0.2}, "200 pictures, 32 styles of each", ["diversity ↑"]),
        ({"generated pictures": 64.0, "consistency": 0.991}, "64 pictures that the generator made", ["consistency ↑"]),
    ],
)
def test_counts_are_in_the_caption_and_are_no_figures(figures, caption, titles):
    found = quality(networks={"net": NetworkQuality(kind="encoder", figures={"psnr_db": 20.0} | figures)})
    (table,) = tables.network_tables(found)
    assert table.caption == f"net (encoder, {caption})"
    assert [column.title for column in table.columns] == ["case", "PSNR ↑", *titles] and len(table.rows) == 1
    assert table.rows[0][1:] == ("20.0 dB", "99.1%" if "consistency" in figures else "0.200")
    assert "generated pictures" not in report.markdown(found, rows()) + html.page(found, rows(), BUDGET, b"", b"", "x")


def test_what_was_not_measured_is_a_dash_with_the_reason():
    text = report.markdown(quality(data="", data_count=0), rows(timed=False))
    (line,) = cells(text, "0.5@64")
    assert [line[4], line[6], line[8]] == ["-", "-", "-"] and cells(text, "0.5@64/openvino")[0][-2:] == ["-", "-"]
    assert "FD-avatar to data (no data to compare with)" in text and "FD parity (it needs data)" in text
    assert "times and memory (no profile" in text
    # Engines that were built anew have no figures, and a sub-network that no engine runs has no MACs.
    old = {name: engine.model_copy(update={"key": "d" * 64}) for name, engine in quality().engines.items()}
    text = report.markdown(quality(engines=old), [row for row in rows() if row.subnet.name != "1@64"])
    assert cells(text, "0.5@64/openvino")[0] == ["-"] * 6 and "quality of engines (not measured since" in text
    assert cells(text, "1@64")[0][0] == "-" and "MACs and times of 1@64 (no engine runs here)" in text


@pytest.mark.parametrize(("measure", "named"), [("FD-avatar", False), ("FID (clean-fid resize)", True)])
def test_the_name_fid_is_only_for_fid(measure, named):
    found = quality(measure=measure)
    text = report.markdown(found, rows())
    page = html.page(found, rows(), BUDGET, b"", b"", "title")
    axes = plot.axes_of(found, rows())
    for shown in (text, page, axes.y_title + axes.title):
        assert ("FID" in shown) == named and measure.split(" ")[0] in shown
    assert ("clean-fid resize" in text) == named == ("clean-fid resize" in axes.title)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1234"), (99.96, "100.0"), (12.345, "12.3"), (0.012345, "0.0123"), (0, "0"), (3e-9, "<0.000001")],
)
def test_three_digits(value, text):
    assert tables.significant(value) == text


def test_an_interval_decides_the_digits():
    assert tables.interval(Interval(value=12.3456, low=12.3411, high=12.3499)) == "12.346 (12.341 to 12.350)"
    assert tables.interval(Interval(value=12.3456, low=9, high=16)) == "12 (9 to 16)"
    assert tables.interval(Interval(value=0.0412, low=0, high=0.4)) == "0.041 (0.000 to 0.400)"
    assert tables.interval(None) == "-"


def test_front_by_hand():
    #         best    beaten  front   equal y  front   same x, worse
    points = [(1, 9), (2, 9), (3, 5), (4, 5), (5, 1), (5, 2)]
    assert plot.front(points) == [0, 2, 4]
    assert plot.front(points[::-1]) == [5, 3, 1]
    assert plot.front([(2, 2), (2, 2)]) == [0] and plot.front([]) == []


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_front_is_what_nothing_beats(points):
    def beaten(p):
        return any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)

    assert [points[i] for i in plot.front(points)] == sorted({p for p in points if not beaten(p)})


def test_axes_show_one_thing():
    timed = plot.axes_of(quality(), rows())
    assert [(p.x, p.quality.value) for p in timed.points][:2] == [(4.0, 41.26), (2.0, 41.26)]  # the engines' own FD
    assert timed.x_title == "p95 latency of one image (ms)" and timed.y_title.startswith("FD-avatar to the data")
    # With one sub-network not compared with the data, all are shown against the full network.
    nets = quality().subnets
    nets["0.5@64"] = nets["0.5@64"].model_copy(update={"fd_data": None})
    mixed = plot.axes_of(quality(subnets=nets), rows())
    assert "full network" in mixed.y_title
    assert [p.quality.value for p in mixed.points] == [36.25, 36.25, 15.5, 15.5, 0, 0]
    # Without times: one point a sub-network, and the axis says so.
    untimed = plot.axes_of(quality(), rows(timed=False))
    assert "GMACs" in untimed.x_title and "no engine was timed" in untimed.x_title
    assert [(p.x, p.quality.value) for p in untimed.points] == [(0.0524, 41.25), (0.1048, 20.5), (1.2, 7.125)]


@pytest.mark.parametrize("timed", [True, False])
def test_chart_is_drawn_and_its_labels_keep_apart(tmp_path, monkeypatch, timed):
    from matplotlib import pyplot

    drawn = []
    monkeypatch.setattr(pyplot, "close", drawn.append)
    found = rows(timed)
    plot.pareto(tmp_path / "chart.png", quality(), found, BUDGET, next(row for row in found if row.chosen))
    monkeypatch.undo()
    with Image.open(tmp_path / "chart.png") as image:
        assert image.size == (1200, 800) and image.format == "PNG"
    (figure,) = drawn
    (axes,) = figure.axes
    assert {text.get_text() for text in axes.texts} == {"0.5@32", "chosen: 0.5@64/openvino", "1@64"}
    boxes = [text.get_window_extent() for text in axes.texts]
    assert all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert ("budget, 9 ms" in legend) == timed and {"32 px", "64 px", "Pareto front"} <= set(legend)
    pyplot.close(figure)


def test_chart_of_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="nothing to draw"):
        plot.pareto(tmp_path / "chart.png", quality(subnets={}), rows(), BUDGET, None)


def test_sheet_enlarges_without_smoothing(tmp_path):
    random = np.random.RandomState(0)
    small, large = (random.randint(0, 256, (8, side, side, 3), np.uint8) for side in (16, 256))
    report.sheet(tmp_path / "sheet.png", {"0.5@16": small, "1@256": large}, {"0.5@16": 9_600_000})
    page = np.asarray(Image.open(tmp_path / "sheet.png"))
    step = report.TILE + 4
    left = page.shape[1] - 8 * step
    assert page.shape[0] == 2 * step + 4 and left > 60
    for i in range(8):
        tiles = page[:, left + i * step :][:, : report.TILE]
        np.testing.assert_array_equal(tiles[4 : 4 + report.TILE], small[i].repeat(8, 0).repeat(8, 1))
        mean = large[i].reshape(128, 2, 128, 2, 3).mean((1, 3))
        assert (
            np.abs(tiles[4 + step : 4 + step + report.TILE] - mean).max() <= 1
        )  # Pillow rounds after each of two passes
    assert (page[4 : 4 + report.TILE, :left] < 128).any()  # the label


@pytest.mark.parametrize(
    "images",
    [
        {},
        {"a": np.zeros((8, 4, 4, 3), np.uint8), "b": np.zeros((7, 4, 4, 3), np.uint8)},
        {"a": np.zeros((8, 4, 4, 3), np.float32)},
        {"a": np.zeros((8, 3, 4, 4), np.uint8)},
    ],
)
def test_sheet_refuses_what_is_no_grid(tmp_path, images):
    with pytest.raises(InputError, match=r"sheet needs|is expected"):
        report.sheet(tmp_path / "sheet.png", images)


class Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def named(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.found if name == tag]


def test_page_is_self_contained_and_semantic():
    page = html.page(quality(), rows(), BUDGET, b"chart", b"sheet", "avatars")
    elements = Elements(page)
    links = [a[key] for _, a in elements.found for key in ("src", "href", "srcset", "action") if key in a]
    assert len(links) == 2 and all(link.startswith("data:image/png;base64,") for link in links)
    assert links[0].endswith("Y2hhcnQ=")  # base64 of "chart"
    assert not {"script", "link", "iframe", "object", "form"} & {name for name, _ in elements.found}
    assert "url(" not in page and "@import" not in page
    assert not any(key.startswith("on") for _, attributes in elements.found for key in attributes)
    assert "default-src 'none'" in page and "prefers-color-scheme: dark" in page and "@page" in page
    assert len(elements.named("h1")) == 1 and all(image["alt"] for image in elements.named("img"))
    assert len(elements.named("table")) == len(elements.named("caption")) == 2
    assert {a.get("scope") for a in elements.named("th")} == {"row", "col"}
    for words in (
        "✗ FAIL (5.5 &gt; 4.2)",
        "✓ pass",
        "p95 10.00 ms is above 9",
        "p50",
        "higher is better",
        "▶ 0.5@64/openvino",
    ):
        assert words in page


def test_page_without_pictures_or_engines():
    page = html.page(quality(data="", engines={}), [], Budget(), b"", b"", "avatars")
    assert not Elements(page).named("img") and "None of 0 engines" in page and "0.5@64" in page


def test_report_of_a_bundle_without_generator_is_of_its_networks_alone():
    nets = {"net": NetworkQuality(kind="encoder", figures={"psnr_db": 20.0, "pictures": 6.0})}
    found = quality(subnets={}, engines={}, measure="", networks=nets)
    page, text = html.page(found, [], Budget(), b"", b"", "others"), report.markdown(found, [])
    assert len(Elements(page).named("table")) == 1 and "20.0 dB" in page and "20.0 dB" in text
    for words in (
        "Chosen engine",
        "sub-networks",
        "0 engines",
        "Sub-networks of the reference",
        "Fréchet",
        "FD",
        "psi",
    ):
        assert words not in page + text


def test_why_an_engine():
    assert report.why(quality(), rows(), BUDGET) == (
        "Of 6 engines, 3 fit the budget (p95 <= 9 ms), and 0.5@64/openvino has the lowest FD-avatar to data of these, 20.5: "
        "p95 5.00 ms, 200 MB."
    )
    nothing = [Row(r.subnet, r.engine, r.measured, "too slow") for r in rows()]
    assert (
        report.why(quality(), nothing, BUDGET)
        == "None of 6 engines was chosen for this budget (p95 <= 9 ms): none fits."
    )


def test_text_of_files_is_escaped():
    found = quality(
        data=HOSTILE,
        measure=f"FD {HOSTILE}",
        distance=HOSTILE,
        networks={"net": NetworkQuality(kind="net", figures={HOSTILE: 1.0, f"{HOSTILE}.psnr_db": 1.0})},
    )
    hostile = [replace(row, misfit=HOSTILE, quality=1.0, ranked_by=HOSTILE) for row in rows()]
    page = html.page(found, hostile, BUDGET, b"x", b"y", HOSTILE)
    elements = Elements(page)
    assert not elements.named("script") and not elements.named("a") and page.count("&lt;script&gt;") > 5
    assert all(a["alt"] and set(a) == {"class", "alt", "src"} for a in elements.named("img"))
    text = report.markdown(found, hostile)
    assert not re.search(r"(?<!\\)[<`]", text) and "](" not in text.replace(r"\](", "")
    for line in text.splitlines():
        if line.startswith("| "):  # no bar of a text makes a cell
            assert len(re.findall(r"(?<!\\)\|", line)) in (4, 8, 11)
