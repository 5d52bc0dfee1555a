"""A video under way: finished segments in TARGET.parts/, joined with the source's sound at the end.

Segments are NUT files, which keep any time base exactly. They have no B-frames, so that decoding and showing times are the
same and segments join by copying packets. Each begins with a key frame of a fresh encoder with fixed settings, whose
number of threads is fixed too: a resumed run encodes the same bits as an undisturbed one.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from anycost.errors import InputError
from anycost.runtime.files import record_of, write_whole

WRITABLE = {".mp4", ".m4v", ".mov", ".mkv"}  # what holds H.264, any time base and nearly every kind of sound
_OPTIONS = {"libx264": {"preset": "medium", "crf": "18", "bf": "0", "forced-idr": "1"}, "mpeg4": {"bf": "0"}}
_THREADS = 2
_MPEG4_CLOCK = 65535  # the largest denominator of a time base that MPEG-4 part 2 can write
_BT709, _BT601 = 1, 5  # codes of the H.264 standard
_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}  # AVI names none
_OURS = re.compile(r"\d{6}\.nut|.*\.part|state\.json|joined\.\w+")


class Parts:
    """The folder of one job, a context manager: whatever happens inside, finished segments stay for the next run."""

    def __init__(self, source: Path, target: Path, key: str) -> None:
        if target.suffix.lower() not in WRITABLE:
            raise InputError(
                f"{target} ends in {target.suffix or 'nothing'}: give one of {', '.join(sorted(WRITABLE))}"
            )
        if target.is_dir():
            raise InputError(f"{target} is a folder: give the name of a video to write")
        if target.exists() and os.path.samefile(source, target):
            raise InputError(f"{target} is the video to read: give another name to write to")
        self.source, self.target = source, target
        self.folder = target.with_name(f"{target.name}.parts")
        self.finished = False
        job = [record_of(source).sha256, key, target.suffix.lower(), _encoder(), _version()]
        self.key = hashlib.sha256(json.dumps(job).encode()).hexdigest()

    def __enter__(self) -> Parts:
        """Keeps the segments of the same job, removes those of another."""
        state = self.folder / "state.json"
        with self.writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            with suppress(OSError, ValueError):
                if json.loads(state.read_text()).get("key") == self.key:
                    for left in self.folder.glob("*.part"):
                        left.unlink()
                    return self
            self._clear()
            write_whole(state, json.dumps({"key": self.key}).encode())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.finished:
            self._clear()
            with suppress(OSError):  # something that is not ours lies in it
                self.folder.rmdir()

    def path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.nut"

    def count(self) -> int:
        """Finished segments from the first on."""
        index = 0
        while self.path(index).exists():
            index += 1
        return index

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turns what goes wrong on the disk into an InputError."""
        import av

        try:
            yield
        except (OSError, av.error.FFmpegError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(
                f"{self.target} cannot be written: {reason}; what is finished stays for the next run"
            ) from None

    def join(self, last_s: Fraction) -> None:
        """All segments and the source's sound -> the target, under a temporary name until it is whole."""
        joined = self.folder / f"joined{self.target.suffix.lower()}"
        try:
            self._join(joined, last_s, copy=True)
        except ValueError:  # some kinds of sound are refused only when they are written
            self._join(joined, last_s, copy=False)
        _flush(joined)
        os.replace(joined, self.target)
        self.finished = True

    def _join(self, path: Path, last_s: Fraction, *, copy: bool) -> None:
        import av

        options = {} if path.suffix == ".mkv" else {"movflags": "faststart"}
        with ExitStack() as stack:
            output = stack.enter_context(av.open(str(path), "w", options=options))
            source = stack.enter_context(av.open(f"file:{self.source.absolute()}"))
            first = stack.enter_context(av.open(str(self.path(0))))
            video = output.add_stream_from_template(first.streams.video[0])
            video.time_base = first.streams.video[0].time_base
            sound: dict[int, tuple[Any, bool]] = {}
            for stream in source.streams.audio:
                if copy and stream.codec_context.name in output.supported_codecs:
                    sound[stream.index] = output.add_stream_from_template(stream), True
                else:
                    sound[stream.index] = _aac(output, stream.codec_context), False
            streams = [self._video(video, last_s)]
            if sound:
                streams.append(_audio(source, sound, beginning(source)))
            # By time, so that the writer never has to hold back one kind while it waits for the other.
            for packet in heapq.merge(*streams, key=_time):
                output.mux(packet)

    def _video(self, target: Any, last_s: Fraction) -> Iterator[Any]:
        import av

        header: tuple[Any, ...] | None = None
        held: Any = None
        packet: Any
        for index in range(self.count()):
            with av.open(str(self.path(index))) as segment:
                stream = segment.streams.video[0]
                own = (stream.codec_context.width, stream.codec_context.height, stream.codec_context.extradata)
                if (header := header or own) != own:
                    raise InputError(f"transform returned frames of different sizes: {own[:2]} after {header[:2]}")
                for packet in segment.demux(stream):
                    if packet.dts is None:
                        continue
                    if held is not None:
                        held.duration = packet.pts - held.pts
                        yield held
                    packet.stream = target
                    held = packet
        if held is not None:
            held.duration = round(last_s / held.time_base)
            yield held

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if _OURS.fullmatch(path.name):
                path.unlink()


def _aac(output: Any, heard: Any) -> Any:
    """A track of sound encoded anew, with the source's rate and number of channels where AAC has them."""
    import av

    rates = av.Codec("aac", "w").audio_rates or []
    rate = heard.sample_rate if heard.sample_rate in rates else 48000
    return output.add_stream("aac", rate=rate, layout=_LAYOUTS.get(heard.channels, "stereo"))


def _time(packet: Any) -> float:
    return float(packet.dts * packet.time_base)


def beginning(container: Any) -> Fraction:
    """Seconds that a recording's clock had at its start, hours with some broadcasts: the target's begins at 0."""
    return max(Fraction(0), Fraction(container.start_time or 0, 1_000_000))


def _audio(source: Any, targets: dict[int, tuple[Any, bool]], start: Fraction) -> Iterator[Any]:
    for packet in source.demux([source.streams[index] for index in targets]):
        target, copied = targets[packet.stream.index]
        if not copied:
            for frame in packet.decode():
                if frame.pts is not None:
                    frame.pts -= round(start / frame.time_base)
                yield from target.encode(frame)
            if packet.size == 0:  # the end of this stream
                yield from target.encode()
        elif packet.dts is not None:
            shift = round(start / packet.time_base)
            packet.dts -= shift
            packet.pts = packet.dts if packet.pts is None else packet.pts - shift
            packet.stream = target
            yield packet


class Segment:
    """A run of frames being encoded: under a temporary name until ``finish``."""

    def __init__(self, path: Path, size: Sequence[int], rate: Fraction, time_base: Fraction) -> None:
        """``size`` is (height, width), both even; ``rate`` in frames a second is a hint, the times are what counts."""
        import av

        self.path, self.temporary, self.size = path, path.with_suffix(".part"), tuple(size)
        self.source_base = self.time_base = time_base
        name = _encoder()
        if name == "mpeg4" and time_base.denominator > _MPEG4_CLOCK:
            self.time_base = Fraction(1, _MPEG4_CLOCK)
        self.container = av.open(str(self.temporary), "w", format="nut")
        stream: Any = self.container.add_stream(name, rate=rate.limit_denominator(_MPEG4_CLOCK), options=_OPTIONS[name])
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = self.time_base
        context = stream.codec_context
        context.thread_count = _THREADS
        # MPEG-4 part 2 cannot say which matrix it uses: then the one that players assume for the size.
        self.matrix = _BT601 if name == "mpeg4" and min(size) < 720 else _BT709
        context.color_primaries = context.color_trc = context.colorspace = self.matrix
        context.color_range = 1  # 16..235
        if name == "mpeg4":
            context.bit_rate = max(1_000_000, int(size[0] * size[1] * min(float(rate), 60.0) / 4))
        self.stream = stream

    def add(self, images: np.ndarray[Any, np.dtype[np.uint8]], times: Sequence[int]) -> None:
        """images uint8 [N, h, w, 3], times in the time base. Raises InputError where the size changes."""
        import av

        if images.shape[1:3] != self.size:
            raise InputError(f"transform returned frames of different sizes: {images.shape[1:3]} after {self.size}")
        for image, time in zip(images, times, strict=True):
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = rgb.reformat(format="yuv420p", dst_colorspace=self.matrix, dst_color_range=1)
            frame.pts = round(time * self.source_base / self.time_base)
            frame.time_base = self.time_base
            self.container.mux(self.stream.encode(frame))

    def finish(self) -> None:
        self.container.mux(self.stream.encode())
        self.container.close()
        _flush(self.temporary)
        os.replace(self.temporary, self.path)

    def close(self) -> None:
        """After a failure, or after ``finish``: nothing is kept that is not finished."""
        with suppress(Exception):  # the disk that failed may fail again
            self.container.close()
        self.temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _encoder() -> str:
    import av

    return "libx264" if "libx264" in av.codecs_available else "mpeg4"


def _version() -> str:
    import av

    return str(av.__version__)
