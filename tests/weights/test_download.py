import hashlib
import http.server
import threading

import pytest

from anycost.errors import CheckpointError, DownloadError
from anycost.weights import catalogue
from anycost.weights.download import fetch

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT at any path that ends in .pt; ``faults`` are answered first, one a request."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: list[str] = []
        self.ranges: list[str | None] = []
        self.ignores_ranges = False
        self.etag = '"one"'

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/generator_x.pt"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        fault = self.server.faults.pop(0) if self.server.faults else ""
        if fault.isdigit():
            self.send_error(int(fault))
            return
        start = 0
        same = self.headers.get("If-Range") in (None, self.server.etag)
        if asked and same and not self.server.ignores_ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.send_header("ETag", self.server.etag)
        self.end_headers()
        end = start + 300_000 if fault == "drop" else len(CONTENT)
        self.wfile.write(CONTENT[start:end])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    found = Server()
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def test_fetches_with_progress_and_checks(server, tmp_path):
    seen = []
    target = tmp_path / "folder" / "a.pt"
    assert fetch(server.url, target, size=len(CONTENT), sha256=SHA256, progress=lambda *at: seen.append(at)) == SHA256
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert not list(target.parent.glob("*.part*"))


def test_goes_on_after_a_break(server, tmp_path):
    server.faults = ["drop", "503"]
    fetch(server.url, tmp_path / "a.pt", sha256=SHA256, pause_s=0)
    assert server.ranges[0] is None and server.ranges[2] == "bytes=300000-"


def test_goes_on_in_a_later_call(server, tmp_path):
    server.faults = ["drop"] + ["500"] * 3
    with pytest.raises(DownloadError, match="500"):
        fetch(server.url, tmp_path / "a.pt", pause_s=0)
    assert (tmp_path / "a.pt.part").stat().st_size == 300_000 and not (tmp_path / "a.pt").exists()
    fetch(server.url, tmp_path / "a.pt", sha256=SHA256)
    assert server.ranges[-1] == "bytes=300000-"


def test_starts_again_where_ranges_are_ignored_or_the_file_changed(server, tmp_path):
    server.ignores_ranges = True
    server.faults = ["drop"]
    fetch(server.url, tmp_path / "a.pt", sha256=SHA256, pause_s=0)
    server.ignores_ranges = False
    (tmp_path / "b.pt.part").write_bytes(b"of another file")
    (tmp_path / "b.pt.part.etag").write_text('"old"')
    fetch(server.url, tmp_path / "b.pt", sha256=SHA256, pause_s=0)


def test_a_part_that_is_too_long_is_dropped(server, tmp_path):
    (tmp_path / "a.pt.part").write_bytes(CONTENT + b"more")
    fetch(server.url, tmp_path / "a.pt", size=len(CONTENT), sha256=SHA256, pause_s=0)


@pytest.mark.parametrize(("size", "sha256", "said"), [(5, None, "5 were expected"), (None, "0" * 64, "sha256")])
def test_another_size_or_hash_is_not_kept(server, tmp_path, size, sha256, said):
    with pytest.raises(DownloadError, match=said):
        fetch(server.url, tmp_path / "a.pt", size=size, sha256=sha256, pause_s=0)
    assert not (tmp_path / "a.pt").exists() and not (tmp_path / "a.pt.part").exists()


def test_not_found_is_said_at_once(server, tmp_path):
    server.faults = ["404"]
    with pytest.raises(DownloadError, match="404"):
        fetch(server.url, tmp_path / "a.pt")
    assert len(server.ranges) == 1


def test_offline_says_what_to_do(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError) as caught:
        fetch(server.url, tmp_path / "a.pt", pause_s=0)
    message = str(caught.value)
    assert server.url in message and str(tmp_path / "a.pt") in message and "\n" not in message


def test_only_web_addresses(tmp_path):
    with pytest.raises(DownloadError, match="http"):
        fetch("file:///etc/hostname", tmp_path / "a.pt")


def test_named_models_have_the_published_addresses():
    urls = {name: model.url() for name, model in catalogue.MODELS.items()}
    assert urls["anycost-ffhq-config-f"].endswith("/projects/anycost-gan/files/generator_anycost-ffhq-config-f.pt")
    assert set(urls) == {
        "anycost-ffhq-config-f",
        "anycost-ffhq-config-f-flexible",
        "anycost-car-config-f",
        "stylegan2-ffhq-config-f",
    }


def test_resolve_fetches_once_and_notices_changes(server, monkeypatch):
    monkeypatch.setenv("ANYCOST_MODEL_URL", server.url.replace("generator_x", "{kind}_{name}"))
    path = catalogue.resolve("anycost-car-config-f")
    assert path.read_bytes() == CONTENT
    assert catalogue.resolve("anycost-car-config-f") == path and len(server.ranges) == 1
    path.write_bytes(b"changed")
    with pytest.raises(DownloadError, match="changed"):
        catalogue.resolve("anycost-car-config-f")


def test_unknown_names_get_a_hint(tmp_path):
    with pytest.raises(CheckpointError, match="did you mean anycost-car-config-f"):
        catalogue.resolve("anycost-cars-config-f")
    with pytest.raises(CheckpointError, match="known models are avatars"):
        catalogue.resolve("xyz")
    file = tmp_path / "a.pt"
    file.write_bytes(b"x")
    assert catalogue.resolve(str(file)) == file
