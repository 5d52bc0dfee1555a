"""Video through a function of pictures: read frame by frame in constant memory, written in parts that outlive a crash.

How the parts are written and joined is in `anycost.runtime.video_parts`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from anycost.errors import BackendError, InputError
from anycost.runtime.video_parts import Parts, Segment, beginning

Frames = np.ndarray[Any, np.dtype[np.uint8]]
Transform = Callable[[Frames, int], Frames]
Steps = Callable[[str, int, int], None]

# Only files that hold their own frames: no playlists, which name other files, and neither text nor single pictures.
READABLE = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,nut,gif"
_DAMAGED = "fetch it again, or repair it with: ffmpeg -i IN -c copy OUT"
_UNKNOWN, _BT709, _HD = 2, 1, 720  # codes of the H.264 standard; untagged video of 720 lines and more is BT.709
_SLACK_S = 0.5  # Matroska's stated duration is not exact


@dataclass(frozen=True)
class VideoInfo:
    """What a player shows: width and height in pixels, square and upright; rate in frames a second, of a variable rate
    the mean; frames as the header tells, None where it does not; whether there is sound."""

    width: int
    height: int
    frames: int | None
    rate: Fraction
    audio: bool


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Reads the header and the first frame. Raises InputError, or BackendError where PyAV is not installed."""
    path = Path(path)
    with _opened(path) as container:
        stream = _stream(container, path)
        for frame in container.decode(stream):
            ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
            width, height = max(1, round(frame.width * ratio)), frame.height
            if frame.rotation % 180:
                width, height = height, width
            rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            return VideoInfo(width, height, stream.frames or None, Fraction(rate), bool(container.streams.audio))
    raise InputError(f"{path} has no frame that can be read: {_DAMAGED}")


def translate_video(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    transform: Transform,
    key: str,
    *,
    batch: int = 8,
    progress: Steps | None = None,
    segment_frames: int = 64,
) -> int:
    """Passes every frame through ``transform``, keeps times and sound, writes ``target`` whole or not at all.

    ``transform`` takes uint8 [N, H, W, 3] and the index of the first frame, and returns uint8 [N, h, w, 3] with one
    h x w for the whole video; N <= batch, and a batch never crosses a segment. Frames arrive upright and with square
    pixels. Odd sides are made even by repeating the last row or column, as the codec asks.

    Each ``segment_frames`` frames are kept in TARGET.parts/. A run that was killed goes on after the last of them, if the
    source's content, ``key`` (which stands for all that ``transform`` depends on), batch and segment_frames are the same,
    and gives the same frames as an undisturbed run. The folder is removed at the end.

    ``progress(what, done, total)`` counts frames. Returns their number. Raises InputError, or BackendError where PyAV is
    not installed; what ``transform`` raises passes through.
    """
    source, target = Path(source), Path(target)
    if batch < 1 or segment_frames < 1:
        raise InputError(f"batch {batch} and segment_frames {segment_frames} are at least 1")
    info = probe(source)
    total = count_frames(source)
    with Parts(source, target, f"{key}|{batch}|{segment_frames}") as parts:
        done, segment = parts.count() * segment_frames, None
        report = progress or (lambda what, done, total: None)
        stamps = _Stamps()
        try:
            for first, pictures, times in _batches(source, info, stamps, done, batch, segment_frames):
                images = _checked(transform(pictures, first), len(pictures))
                with parts.writing():
                    segment = segment or Segment(
                        parts.path(first // segment_frames), images.shape[1:3], info.rate, stamps.time_base
                    )
                    segment.add(images, times)
                    if (first + len(images)) % segment_frames == 0:
                        segment.finish()
                        segment = None
                report("frames", first + len(images), max(total, first + len(images)))
            with parts.writing():
                if segment:
                    segment.finish()
                parts.join(stamps.duration * stamps.time_base)
        finally:
            if segment:
                segment.close()
        report("", stamps.count, stamps.count)
    return stamps.count


@dataclass
class _Stamps:
    """Times of the frames read so far, made to rise where a file's do not."""

    count: int = 0
    last: int = -1
    duration: int = 0
    time_base: Fraction = Fraction(1, 25)
    start: Fraction = Fraction(0)  # seconds, taken off

    def next(self, frame: Any, rate: Fraction) -> int:
        self.time_base = frame.time_base
        usual = max(1, round(1 / rate / self.time_base))
        guess = self.last + usual if self.count else 0
        pts = guess if frame.pts is None else frame.pts - round(self.start / self.time_base)
        self.last, self.duration, self.count = max(pts, self.last + 1), frame.duration or usual, self.count + 1
        return self.last


def _batches(
    path: Path, info: VideoInfo, stamps: _Stamps, skip: int, batch: int, segment_frames: int
) -> Iterator[tuple[int, Frames, list[int]]]:
    """(index of the first, uint8 [N, H, W, 3], times), from frame ``skip``. What is skipped is decoded, not sought: exact
    with every format, and cheap beside a network."""
    pictures: list[Frames] = []
    times: list[int] = []
    with _opened(path) as container:
        stream = _stream(container, path)
        stream.thread_type = "AUTO"
        stamps.start = beginning(container)
        for frame in container.decode(stream):
            pts = stamps.next(frame, info.rate)
            if stamps.count <= skip:
                continue
            pictures.append(_as_seen(frame, info))
            times.append(pts)
            if len(pictures) == batch or stamps.count % segment_frames == 0:
                yield stamps.count - len(pictures), np.stack(pictures), times
                pictures, times = [], []
    if pictures:
        yield stamps.count - len(pictures), np.stack(pictures), times
    if stamps.count == 0:
        raise InputError(f"{path} has no frame that can be read: {_DAMAGED}")


def _as_seen(frame: Any, info: VideoInfo) -> Frames:
    """uint8 [H, W, 3] of the size in ``info``: square pixels, upright."""
    turns = round(frame.rotation / 90)
    width, height = (info.height, info.width) if turns % 2 else (info.width, info.height)
    untagged = frame.colorspace == _UNKNOWN
    pixels = frame.to_ndarray(
        format="rgb24",
        width=width,
        height=height,
        src_colorspace=_BT709 if untagged and min(width, height) >= _HD else None,
        src_color_range=frame.color_range or None,
    )
    return np.ascontiguousarray(np.rot90(pixels, turns))


def _checked(images: Frames, count: int) -> Frames:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[0] != count or images.shape[3] != 3:
        raise InputError(
            f"transform returned {images.dtype} {list(images.shape)} for {count} frames: uint8 [N, h, w, 3]"
        )
    bottom, right = images.shape[1] % 2, images.shape[2] % 2
    return np.pad(images, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="edge") if bottom or right else images


def count_frames(path: Path) -> int:
    """Number of frames in the file. Raises InputError where it is cut off: better now than after hours of work."""
    count, end = 0, 0.0
    with _opened(path) as container:
        stream = _stream(container, path)
        stated, duration = stream.frames, (container.duration or 0) / 1e6
        matroska = "matroska" in container.format.name  # the others' durations may be guesses
        samples = 0
        for packet in container.demux():
            if packet.size and packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.size and packet.stream.index == stream.index:
                samples += 1
                count += not packet.is_discard
    if samples < stated:
        raise InputError(f"{path} is cut off: {samples} of {stated} frames are there; {_DAMAGED}")
    if matroska and end + _SLACK_S < duration:
        raise InputError(f"{path} is cut off: it ends at {end:.1f} of {duration:.1f} s; {_DAMAGED}")
    return count


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A PyAV container. Raises InputError for what is no whole video file."""
    try:
        import av
    except ImportError:
        raise BackendError(
            "video needs the package av, which is not installed: pip install 'anycost-runtime[video]'"
        ) from None
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder: give the name of a video in it")
        if path.stat().st_size == 0:
            raise InputError(f"{path} has 0 bytes: the copy or the download failed, fetch it again")
        options = {"format_whitelist": READABLE, "protocol_whitelist": "file"}
        with closing(av.open(f"file:{path.absolute()}", options=options)) as container:
            yield container
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: check the name") from None
    except (av.error.InvalidDataError, av.error.ArgumentError, av.error.EOFError):  # the second: not in READABLE
        raise InputError(f"{path} is not a video that can be read, or it is cut off or damaged: {_DAMAGED}") from None
    except (OSError, av.error.FFmpegError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _stream(container: Any, path: Path) -> Any:
    for stream in container.streams.video:
        if not int(stream.disposition) & 0x400:  # AV_DISPOSITION_ATTACHED_PIC: the cover of a piece of music
            return stream
    raise InputError(f"{path} has no video in it, only {', '.join(s.type for s in container.streams) or 'nothing'}")
