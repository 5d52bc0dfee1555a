import signal
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anycost.errors import BackendError, InputError
from anycost.runtime.video import VideoInfo, probe, translate_video

av = pytest.importorskip("av")
RATE = 44100


def picture(index: int, width=64, height=48) -> np.ndarray:
    """A ramp that moves: every frame is another one."""
    ramp = np.add.outer(np.arange(height), np.arange(width)) + 5 * index
    return np.stack([ramp % 256, (255 - ramp) % 256, np.full_like(ramp, 8 * index % 256)], 2).astype(np.uint8)


def video(path, times=range(30), *, audio="aac", size=(64, 48), codec="libx264", draw=picture) -> Path:
    """Frames at ``times`` thirtieths of a second, and a tone of the same length."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options={"preset": "ultrafast"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 30)
        if audio:
            sound = container.add_stream(audio, rate=RATE, layout="mono")
            wave = np.sin(np.arange(RATE * (max(times) + 1) // 30) * (440 * 2 * np.pi / RATE)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(wave[None], "fltp", "mono")
            frame.rate, frame.pts = RATE, 0
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
        for i, at in enumerate(times):
            frame = av.VideoFrame.from_ndarray(draw(i, *size))
            frame.pts, frame.time_base = at, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def frames(path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def times(path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def sound(path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)


def packets(path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def same(pictures, first):
    return pictures


def invert(pictures, first):
    return 255 - pictures


def seen(path) -> np.ndarray:
    """The first batch as a transform gets it."""
    got = []
    translate_video(
        path, path.with_name("unused.mp4"), lambda pictures, first: got.append(pictures) or pictures, "same"
    )
    return got[0]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return video(tmp_path_factory.mktemp("video") / "source.mp4")


def test_probe(source, tmp_path):
    assert probe(source) == VideoInfo(64, 48, 30, Fraction(30), True)
    assert probe(str(video(tmp_path / "silent.mkv", audio=None))) == VideoInfo(64, 48, None, Fraction(30), False)


def test_frames_times_and_sound_are_kept(source, tmp_path):
    firsts, steps = [], []

    def transform(pictures, first):
        assert pictures.dtype == np.uint8 and pictures.shape[1:] == (48, 64, 3)
        firsts.extend(range(first, first + len(pictures)))
        return invert(pictures, first)

    target = tmp_path / "deep" / "target.mp4"
    progress = lambda *step: steps.append(step)  # noqa: E731
    assert translate_video(source, target, transform, "invert", progress=progress, segment_frames=12) == 30
    assert firsts == list(range(30)) and [done for _, done, _ in steps] == [8, 12, 20, 24, 30, 30]
    assert {total for _, _, total in steps} == {30} and steps[-1][0] == ""
    assert times(target) == times(source)
    difference = np.stack(frames(target)).astype(int) - (255 - np.stack(frames(source)).astype(int))
    assert np.abs(difference).mean() < 4
    assert packets(target) == packets(source)
    with av.open(str(target)) as ours, av.open(str(source)) as theirs:
        assert ours.streams.audio[0].duration == theirs.streams.audio[0].duration
        assert ours.streams.video[0].duration * ours.streams.video[0].time_base == 1
    assert [path.name for path in target.parent.iterdir()] == ["target.mp4"]


def test_colors_come_back_and_are_tagged(tmp_path):
    red = video(
        tmp_path / "red.mp4", range(3), audio=None, draw=lambda i, w, h: np.full((h, w, 3), (255, 0, 0), np.uint8)
    )
    for size in (64, 1280):  # untagged HD is read as BT.709, everything is written as it
        flat = lambda pictures, first, s=size: np.full((len(pictures), s * 9 // 16, s, 3), (200, 30, 90), np.uint8)  # noqa: E731
        translate_video(red, tmp_path / "flat.mp4", flat, str(size))
        assert np.abs(seen(tmp_path / "flat.mp4").astype(int) - (200, 30, 90)).max() <= 3
    with av.open(str(tmp_path / "flat.mp4")) as container:
        assert container.streams.video[0].codec_context.colorspace == 1


def test_a_variable_frame_rate_is_kept(tmp_path):
    uneven = [0, 1, 2, 10, 11, 40, 41, 43, 90, 91]
    source = video(tmp_path / "uneven.mp4", uneven)
    for suffix, error in ((".mp4", 0), (".mov", 0), (".mkv", Fraction(1, 1000))):
        target = tmp_path / f"target{suffix}"
        translate_video(source, target, same, "same", segment_frames=4, batch=3)
        start = times(target)[0]  # Matroska has no negative times: all, sound too, is late by AAC's lead of 23 ms
        differences = [abs(ours - start - Fraction(at, 30)) for ours, at in zip(times(target), uneven, strict=True)]
        assert max(differences) <= error and start <= Fraction(1024, RATE)


@pytest.mark.parametrize(("audio", "target"), [(None, "mp4"), ("aac", "mp4"), ("aac", "mkv"), ("flac", "mov")])
def test_a_clock_that_does_not_begin_at_0_is_set_to_0(tmp_path, audio, target):
    target = tmp_path / f"target.{target}"
    late = tmp_path / "late.mkv"
    with av.open(str(video(tmp_path / "source.mkv", audio=audio))) as given, av.open(str(late), "w") as container:
        streams = {stream.index: container.add_stream_from_template(stream) for stream in given.streams}
        for packet in given.demux():
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts + 10_000, packet.dts + 10_000  # ms
                packet.stream = streams[packet.stream.index]
                container.mux(packet)
    assert times(late)[0] >= 10
    assert translate_video(late, target, same, "same") == 30
    with av.open(str(target)) as container:
        starts = [float(stream.start_time * stream.time_base) for stream in container.streams]
    assert max(starts) < 0.05 and abs(times(target)[-1] - Fraction(29, 30)) < 0.05


def test_odd_sizes_are_padded_and_other_sizes_written(source, tmp_path):
    translate_video(source, tmp_path / "odd.mp4", lambda pictures, first: pictures[:, :33, :41], "odd")
    assert frames(tmp_path / "odd.mp4")[0].shape == (34, 42, 3)
    translate_video(source, tmp_path / "big.mp4", lambda pictures, first: pictures.repeat(2, 1).repeat(2, 2), "big")
    assert frames(tmp_path / "big.mp4")[0].shape == (96, 128, 3)


def test_rotation_is_applied(source, tmp_path):
    """A telephone's upright video: the matrix in the track's header says to turn it clockwise by 90 degrees."""
    data = bytearray(source.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version, flags, times, track, duration, layer, volume: then the matrix
    assert struct.unpack(">9i", data[at : at + 36])[0] == 1 << 16
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(data)
    assert (probe(tmp_path / "turned.mp4").width, probe(tmp_path / "turned.mp4").height) == (48, 64)
    assert np.array_equal(seen(tmp_path / "turned.mp4")[0], np.rot90(frames(source)[0], -1))
    translate_video(tmp_path / "turned.mp4", tmp_path / "target.mp4", same, "same")
    assert frames(tmp_path / "target.mp4")[0].shape == (64, 48, 3)


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    path = tmp_path / "wide.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(0))))
        container.mux(stream.encode())
    assert (probe(path).width, probe(path).height) == (96, 48)
    translate_video(path, tmp_path / "target.mp4", same, "same")
    assert frames(tmp_path / "target.mp4")[0].shape == (48, 96, 3)


@pytest.mark.parametrize(
    ("container", "codec", "target", "copied"),
    [
        ("mkv", "libmp3lame", "mp4", True),
        ("avi", "pcm_s16le", "mkv", True),
        ("mkv", "flac", "mp4", True),
        ("mkv", "flac", "mov", False),
        ("ts", "aac", "mp4", True),
        ("avi", "adpcm_ms", "mp4", False),
    ],
)
def test_sound_is_copied_where_the_container_holds_it(tmp_path, container, codec, target, copied):
    source = video(tmp_path / f"source.{container}", audio=codec, codec="mpeg4" if container == "avi" else "libx264")
    target = tmp_path / f"target.{target}"
    assert translate_video(source, target, same, "same") == 30
    with av.open(str(target)) as ours, av.open(str(source)) as theirs:
        names = ours.streams.audio[0].codec_context.name, theirs.streams.audio[0].codec_context.name
    assert (names[0] == names[1]) == copied and (copied or names[0] == "aac")
    ours, theirs = sound(target), sound(source)
    assert abs(ours.shape[1] - theirs.shape[1]) <= 2048  # a block at each end
    assert np.abs(ours).max() > 0.1


JOB = """
import os, signal, sys
from pathlib import Path
from anycost.runtime.video import translate_video

source, target, kill_at = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

def transform(pictures, first):
    print(first, flush=True)
    if 0 <= kill_at <= first:
        os.kill(os.getpid(), signal.SIGKILL)
    return 255 - pictures

translate_video(source, target, transform, "invert", batch=4, segment_frames=8)
"""


def job(source, target, kill_at=-1):
    done = subprocess.run(
        [sys.executable, "-c", JOB, str(source), str(target), str(kill_at)], capture_output=True, text=True
    )
    return done.returncode, [int(line) for line in done.stdout.split()], done.stderr


def test_without_x264_mpeg4_is_written(source, tmp_path, monkeypatch):
    monkeypatch.setattr("anycost.runtime.video_parts._encoder", lambda: "mpeg4")
    target = tmp_path / "target.mp4"
    assert translate_video(source, target, same, "same", segment_frames=12) == 30 and times(target) == times(source)
    assert np.abs(np.stack(frames(target)).astype(int) - np.stack(frames(source))).mean() < 4


def test_a_killed_run_goes_on_and_gives_the_same_frames(source, tmp_path):
    target, parts = tmp_path / "killed.mp4", tmp_path / "killed.mp4.parts"
    code, firsts, _ = job(source, target, kill_at=20)
    assert code == -signal.SIGKILL and firsts == [0, 4, 8, 12, 16, 20] and not target.exists()
    kept = {path: path.stat().st_mtime_ns for path in sorted(parts.glob("*.nut"))}
    assert len(kept) == 2
    code, firsts, errors = job(source, target)
    assert code == 0 and firsts == [16, 20, 24, 28], errors
    assert not parts.exists()
    assert job(source, tmp_path / "whole.mp4")[0] == 0
    assert np.array_equal(frames(target), frames(tmp_path / "whole.mp4"))
    assert target.read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_parts_of_another_job_are_not_used(source, tmp_path):
    def fails(pictures, first):
        if first >= 16:
            raise RuntimeError("the network failed")
        return same(pictures, first)

    def run(key, transform, video=source, **options):
        firsts = []

        def watched(pictures, first):
            firsts.append(first)
            return transform(pictures, first)

        try:
            translate_video(video, tmp_path / "target.mp4", watched, key, segment_frames=8, **options)
        except RuntimeError as error:
            assert str(error) == "the network failed"
        return firsts[0]

    assert run("one", fails) == 0
    assert sorted(path.name for path in (tmp_path / "target.mp4.parts").iterdir()) == [
        "000000.nut",
        "000001.nut",
        "state.json",
    ]
    assert run("one", fails) == 16
    assert run("two", fails) == 0
    assert run("two", fails, batch=4) == 0
    other = video(tmp_path / "other.mp4", range(29))
    assert run("two", fails, other, batch=4) == 0
    assert run("two", same, other, batch=4) == 16
    assert len(frames(tmp_path / "target.mp4")) == 29


def test_killed_between_the_last_segment_and_the_end(source, tmp_path, monkeypatch):
    from anycost.runtime.video_parts import Parts

    def dies(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "join", dies)
        with pytest.raises(KeyboardInterrupt):
            translate_video(source, tmp_path / "target.mp4", same, "same", segment_frames=8)
    assert translate_video(source, tmp_path / "target.mp4", None, "same", segment_frames=8) == 30
    assert times(tmp_path / "target.mp4") == times(source)


MEMORY = """
import sys
from pathlib import Path
from anycost.runtime.video import translate_video

count = translate_video(sys.argv[1], sys.argv[2], lambda pictures, first: pictures, "same")
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(count, status["VmHWM"].split()[0], "torch" in sys.modules)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read as Linux tells it")
def test_memory_does_not_grow_with_the_length(tmp_path):
    """360 more frames of 192 x 144 are 30 MB as RGB; the peak may differ by 12 MB. getrusage would tell the parent's."""
    peaks = []
    for count in (40, 400):
        source = video(tmp_path / f"{count}.mp4", range(count), size=(192, 144), codec="mpeg4")
        command = [sys.executable, "-c", MEMORY, str(source), str(tmp_path / f"target{count}.mp4")]
        frames_done, peak_kb, torch = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert int(frames_done) == count and torch == "False"
        peaks.append(int(peak_kb) / 1024)
    print("peaks", peaks)
    assert abs(peaks[1] - peaks[0]) < 12, peaks


def test_files_that_are_no_whole_videos(source, tmp_path):
    def refused(name, data, reason):
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        for action in (probe, lambda path: translate_video(path, tmp_path / "target.mp4", same, "same")):
            if action is probe and reason == "is cut off":
                continue
            with pytest.raises(InputError, match=reason) as caught:
                action(path)
            assert "\n" not in str(caught.value) and name in str(caught.value)

    whole = source.read_bytes()
    refused("none.mp4", None, "does not exist")
    refused("empty.mp4", b"", "0 bytes")
    refused("text.mp4", b"I am a text, whatever my name says.\n" * 50, "not a video")
    refused("text.txt", b"I am a text\n" * 50, "not a video")
    refused("half.mp4", whole[: len(whole) // 2], "not a video")
    refused("list.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsource.ts\n#EXT-X-ENDLIST\n", "not a video")
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    refused("picture.png", None, "not a video")
    translate_video(source, tmp_path / "fast.mp4", same, "same")  # its index comes first
    refused("cut.mp4", (tmp_path / "fast.mp4").read_bytes()[:-9000], "is cut off")
    long = video(tmp_path / "long.mkv", range(90)).read_bytes()
    refused("cut.mkv", long[: len(long) // 2], "is cut off")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    refused("sound.mp4", None, "no video in it, only audio")
    with pytest.raises(InputError, match="is a folder"):
        probe(tmp_path)


def test_targets_that_cannot_be_written(source, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder.mp4").mkdir()
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(source.read_bytes())
    for path, reason in (
        (tmp_path / "file" / "target.mp4", "cannot be written"),
        (tmp_path / "folder.mp4", "is a folder"),
        (tmp_path / "target.gif", "ends in .gif"),
        (tmp_path / "target", "ends in nothing"),
        (copy, "is the video to read"),
    ):
        with pytest.raises(InputError, match=reason):
            translate_video(copy, path, same, "same")
    assert copy.read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda pictures, first: pictures.astype(np.float32),
        lambda pictures, first: pictures[:-1],
        lambda pictures, first: pictures[..., 0],
        lambda pictures, first: pictures[:, : 48 - first],
        lambda pictures, first: pictures[:, : 48 - first // 10 * 10],
    ],
)
def test_transforms_that_return_something_else(source, tmp_path, wrong):
    target = tmp_path / "target.mp4"
    target.write_bytes(b"what was there before")
    with pytest.raises(InputError, match="transform returned"):
        translate_video(source, target, wrong, "wrong", segment_frames=10)
    assert target.read_bytes() == b"what was there before"


def test_without_pyav_the_remedy_is_named(source, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(BackendError, match=r"pip install 'anycost-runtime\[video\]'"):
        probe(source)
