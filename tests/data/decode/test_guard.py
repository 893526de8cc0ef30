"""What may be opened, for each backend: regular local files whose content is a container; nothing else is touched."""

from __future__ import annotations

import http.server
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hybridvideo.data.decode import BACKENDS, VideoReader, guard
from hybridvideo.errors import VideoError
from tests.data.decode.backends import need, working
from tests.videos import numbers, write_video


@pytest.fixture(params=["auto", *BACKENDS])
def backend(request: pytest.FixtureRequest) -> str:
    return need(request.param)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """Address of a server on loopback that has every file asked for, and the requests it has seen."""
    seen: list[str] = []
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(200)
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}", seen
        running.shutdown()
        thread.join()


@pytest.fixture
def sentinel(tmp_path: Path) -> Path:
    """A readable video that nobody asks for; its time of last access tells whether it was opened."""
    path = write_video(tmp_path / "sentinel.ts", 5)
    forget_access(path)
    path.read_bytes()
    if unread(path):
        pytest.skip("this file system keeps no times of access")
    forget_access(path)
    return path


def forget_access(path: Path) -> None:
    """Any read moves a time of access this old, under relatime too."""
    os.utime(path, (0, path.stat().st_mtime))


def unread(path: Path) -> bool:
    return path.stat().st_atime == 0


def refusal(path: str | Path, backend: str) -> VideoError:
    with pytest.raises(VideoError) as caught, VideoReader(path, backend=backend) as reader:
        reader.frames_at([0])
    assert "\n" not in str(caught.value)
    return caught.value


def playlists(address: str, other: Path) -> dict[str, bytes]:
    """Texts that make a careless decoder open the address or the other file, by what they are."""
    hls = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{}\n#EXT-X-ENDLIST\n"
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011" mediaPresentationDuration="PT5S"><Period>'
        '<AdaptationSet mimeType="video/mp4"><Representation id="0" bandwidth="1" codecs="avc1.4d401f">'
        "<BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>"
    )
    texts = {
        "hls_http": hls.format(f"{address}/a.ts"),
        "hls_file": hls.format(f"file://{other}"),
        "hls_path": hls.format(other),
        "hls_key": hls.replace("#EXTINF", f'#EXT-X-KEY:METHOD=AES-128,URI="{address}/key"\n#EXTINF').format(other),
        "dash_http": dash.format(f"{address}/a.mp4"),
        "dash_file": dash.format(f"file://{other}"),
        "concat": f"ffconcat version 1.0\nfile '{other.name}'\n",
        "concat_http": f"ffconcat version 1.0\nfile '{address}/a.mp4'\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "pls": f"[playlist]\nFile1={address}/a.mp4\n",
        "asx": f'<asx version="3.0"><entry><ref href="{address}/a.wmv"/></entry></asx>',
    }
    return {name: text.encode() for name, text in texts.items()}


# -------------------------------------------------------------------- names


def test_a_name_is_only_ever_the_name_of_a_local_file(
    tmp_path: Path, backend: str, server: tuple[str, list[str]], sentinel: Path
) -> None:
    address, seen = server
    names = [
        f"{address}/a.mp4",
        address.replace("http", "tcp"),
        f"file:{sentinel}",
        f"file://{sentinel}",
        f"concat:{sentinel}|{sentinel}",
        f"subfile,,start,0,end,0,,:{sentinel}",
        f"async:{sentinel}",
        f"crypto:{sentinel}",
        "data:video/mp4;base64,AAAA",
        "pipe:0",
        "fd:0",
        "-",
        "bad\0name.mp4",
        "",
    ]
    assert {name: refusal(name, backend).status for name in names if refusal(name, backend).status not in BAD} == {}
    assert seen == []
    assert unread(sentinel)


BAD = ("refused", "missing")


def test_only_regular_files_are_opened(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "nothing")
    (tmp_path / "round.mp4").symlink_to(tmp_path / "round.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("socket.mp4")
        expected = {
            "fifo.mp4": "refused",
            "folder.mp4": "refused",
            "socket.mp4": "refused",
            "zero.mp4": "refused",
            "/dev/zero": "refused",
            "dangling.mp4": "missing",
            "round.mp4": "missing",
        }
        assert {name: refusal(name, backend).status for name in expected} == expected


@pytest.mark.parametrize(
    "name", ["-y.mp4", "--help", "concat:a|b.mp4", "http:x.mp4", "new\nline.mp4", "🎬 späß 'x' %d.mp4", "*?[a].mp4"]
)
def test_odd_names_are_only_names(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write_video(tmp_path / "plain.mp4", 3).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with VideoReader(name, backend=backend) as reader:
        assert numbers(reader.frames_at([0, 1, 2]).frames_TCHW) == [0, 1, 2]


# -------------------------------------------------------------------- content


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".m3u8", ".mpd", ".sdp", ""])
def test_a_playlist_by_any_name_is_not_followed(
    tmp_path: Path, backend: str, server: tuple[str, list[str]], sentinel: Path, suffix: str
) -> None:
    address, seen = server
    for name, text in playlists(address, sentinel).items():
        for start in (b"", b"\n", b"\xef\xbb\xbf"):
            path = tmp_path / f"list{suffix}"
            path.write_bytes(start + text)
            assert refusal(path, backend).status in ("refused", "unreadable"), (name, suffix)
    assert seen == []
    assert unread(sentinel)


@pytest.mark.parametrize("container", ["video.ts", "video.mpg", "video.mp4", "video.h264"])
def test_a_playlist_hidden_in_a_video_is_not_followed(
    tmp_path: Path, backend: str, server: tuple[str, list[str]], sentinel: Path, container: str
) -> None:
    """Versions of FFmpeg disagree on what such a file is: PyAV's sees the video, older ones the playlist."""
    address, seen = server
    codec = "mpeg2video" if container.endswith("mpg") else "libx264"
    video = write_video(tmp_path / container, 30, codec=codec).read_bytes()
    for text in playlists(address, sentinel).values():
        padded = text + b"\n" * (-len(text) % 188)
        for data in (padded + video, video[:188] + padded + video[188:], video + padded):
            path = tmp_path / f"both-{container}"
            path.write_bytes(data)
            try:
                with VideoReader(path, backend=backend) as reader:
                    reader.frames_at([0])
            except VideoError as error:
                assert error.status in ("refused", "unreadable", "unsupported", "partial", "no_video")
    assert seen == []
    assert unread(sentinel)


def external(video: bytes, reference: bytes) -> bytes:
    """The MP4 with its samples said to be in another file: its one data reference exchanged, behind the samples."""
    place = video.index(b"dref") - 4
    (size,) = struct.unpack_from(">I", video, place)
    new = struct.pack(">I4sII", 16 + len(reference), b"dref", 0, 1) + reference
    out = bytearray(video[:place] + new + video[place + size :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        at = out.rindex(name, 0, place) - 4
        struct.pack_into(">I", out, at, struct.unpack_from(">I", out, at)[0] + len(new) - size)
    return bytes(out)


def test_samples_in_other_files_are_not_fetched(
    tmp_path: Path, backend: str, server: tuple[str, list[str]], sentinel: Path
) -> None:
    address, seen = server
    video = write_video(tmp_path / "video.mov", 5).read_bytes()

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I4sI", 12 + len(content), kind, 0) + content

    name = str(sentinel).encode()
    path_on_volume = b"disk" + name.replace(b"/", b":")
    path_on_volume += b"\0" * (len(path_on_volume) % 2)
    alias = b"\0" * 10 + b"\4disk".ljust(28, b"\0") + b"\0" * 12
    alias += bytes([len(sentinel.name)]) + sentinel.name.encode().ljust(63, b"\0") + b"\0" * 16
    alias += struct.pack(">HH", 1, 1) + b"\0" * 16
    alias += struct.pack(">HH", 2, len(path_on_volume)) + path_on_volume + b"\xff\xff\0\0"
    references = [
        box(b"url ", f"{address}/a.mov".encode() + b"\0"),
        box(b"url ", f"file://{sentinel}".encode() + b"\0"),
        box(b"url ", name + b"\0"),
        box(b"alis", alias),
    ]
    for reference in references:
        path = tmp_path / "reference.mov"
        path.write_bytes(external(video, reference))
        try:
            with VideoReader(path, backend=backend) as reader:
                reader.frames_at([0])
        except VideoError as error:
            assert error.status in ("refused", "unreadable", "unsupported", "partial")
    assert seen == []
    assert unread(sentinel)


def test_another_library_gets_no_file_without_a_signature(tmp_path: Path) -> None:
    for path in (write_video(tmp_path / "a.mp4", 3), write_video(tmp_path / "a.mkv", 3)):
        guard.signed(str(path), "matroska,webm" if path.suffix == ".mkv" else "mov,mp4,m4a,3gp,3g2,mj2")
    with pytest.raises(VideoError, match=r"refused: .*something other than avi"):
        guard.signed(str(tmp_path / "a.mkv"), "avi")
    with pytest.raises(VideoError, match="unsupported: h264 files are read by PyAV only"):
        guard.signed(str(tmp_path / "a.mp4"), "h264")


# -------------------------------------------------------------------- limits

MEASURE = """
import json, resource, sys
from hybridvideo.data.decode import VideoReader
from hybridvideo.errors import VideoError

small, paths, backends = json.loads(sys.argv[1])
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

for backend in backends:
    with VideoReader(small, backend=backend) as reader:
        reader.frames_at([0])
for path in paths:
    for backend in backends:
        before = peak()
        try:
            with VideoReader(path, backend=backend) as reader:
                reader.info
                reader.frames_at([0] * 200)
                status = reader.status
        except VideoError as error:
            status = error.status
        print(json.dumps([path, backend, status, peak() - before]))
"""


def measured(small: Path, *paths: Path) -> list[tuple[str, str, str, int]]:
    """For each file and backend: both names, status, MiB by which asking for 200 frames raised a process's peak."""
    found = working()
    job = json.dumps([str(small), [str(path) for path in paths], found])
    command = [sys.executable, "-c", MEASURE, job]
    done = subprocess.run(command, timeout=100, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    rows = [tuple(json.loads(line)) for line in done.stdout.splitlines()]
    assert len(rows) == len(paths) * len(found)
    return rows


def test_bombs_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    """200 frames of 4096x4096 are 9 GiB of RGB; frames of 8208x8208 are above the limit, nothing at all is decoded."""
    small = write_video(tmp_path / "small.mp4", 3)
    how = {"b_frames": 0, "options": {"preset": "ultrafast", "x264-params": "scenecut=0"}}
    bombs = [write_video(tmp_path / f"bomb{side}.mp4", 1, size=(side, side), **how) for side in (8208, 4096)]
    for name, backend, status, growth in measured(small, *bombs):
        assert status == "refused", (name, backend)
        assert growth < (300 if "4096" in name else 50), (name, backend)  # at most one frame, to learn its size


def lie(video: bytes, **claims: int) -> bytes:
    """The MP4 with these numbers in its header: seconds of duration, number of frames."""
    out = bytearray(video)
    if "ticks" in claims:
        for name, offset in ((b"mvhd", 20), (b"mdhd", 20), (b"tkhd", 24)):
            struct.pack_into(">I", out, out.index(name) + offset, claims["ticks"])
    if "frames" in claims:
        struct.pack_into(">II", out, out.index(b"stsz") + 8, 1, claims["frames"])
        struct.pack_into(">I", out, out.index(b"stts") + 12, claims["frames"])
        struct.pack_into(">I", out, out.index(b"stsc") + 16, claims["frames"])
    if "run" in claims:  # a fragment's run whose samples all take the default
        struct.pack_into(">II", out, out.index(b"trun") + 4, claims["flags"], claims["run"])
    return bytes(out)


def test_headers_that_lie_cost_no_memory(tmp_path: Path) -> None:
    small = write_video(tmp_path / "small.mp4", 5)
    claims = {
        "days.mp4": {"ticks": 2**31 - 1},
        "million.mp4": {"frames": 10**6},
        "many.mp4": {"frames": 5 * 10**7},
        "milliard.mp4": {"frames": 10**9},
        "run.mp4": {"flags": 0, "run": 5 * 10**7},
        "long_run.mp4": {"flags": 0xF01, "run": 5 * 10**7},
    }
    parts = write_video(tmp_path / "parts.mp4", 5, container_options={"movflags": "frag_keyframe+empty_moov"})
    for name, numbers_claimed in claims.items():
        video = parts if "run" in numbers_claimed else small
        (tmp_path / name).write_bytes(lie(video.read_bytes(), **numbers_claimed))
    for name, backend, status, growth in measured(small, *(tmp_path / name for name in claims)):
        assert status == ("ok" if "days" in name else "unreadable"), (name, backend)
        assert growth < 20, (name, backend)


def test_the_count_is_what_is_there_and_the_duration_too(tmp_path: Path, backend: str) -> None:
    path = write_video(tmp_path / "liar.mp4", 5)
    path.write_bytes(lie(path.read_bytes(), ticks=2**31 - 1))
    with VideoReader(path, backend=backend) as reader:
        assert (reader.info.frames, reader.info.duration) == (5, pytest.approx(0.2))


# -------------------------------------------------------------------- inside the data root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """data/ with a video, a folder, links that stay and links that leave."""
    root = tmp_path / "data"
    (root / "deep").mkdir(parents=True)
    for path in (root / "a.mp4", tmp_path / "secret.mp4", root / "deep" / "b.mp4"):
        path.write_bytes(b"x")
    (tmp_path / "data-next").mkdir()
    (tmp_path / "data-next" / "c.mp4").write_bytes(b"x")
    links: dict[str, Callable[[], Path]] = {
        "stays.mp4": lambda: root / "deep" / "b.mp4",
        "leaves.mp4": lambda: tmp_path / "secret.mp4",
        "out": lambda: tmp_path,
        "next.mp4": lambda: tmp_path / "data-next" / "c.mp4",
    }
    for name, target in links.items():
        (root / name).symlink_to(target())
    (tmp_path / "alias").symlink_to(root)
    return root


@pytest.mark.parametrize("name", ["a.mp4", "deep/../a.mp4", "deep/b.mp4", "stays.mp4", "not/there.mp4", "./a.mp4"])
def test_paths_inside_the_root_are_joined_to_it(tree: Path, name: str) -> None:
    assert guard.inside(name, tree) == os.path.join(tree, name)
    assert guard.inside(name, tree.parent / "alias") == os.path.join(tree.parent, "alias", name)


@pytest.mark.parametrize(
    "name", ["../secret.mp4", "deep/../../secret.mp4", "leaves.mp4", "out/secret.mp4", "../data-next/c.mp4", "next.mp4"]
)
def test_neither_dots_nor_links_lead_outside_the_root(tree: Path, name: str) -> None:
    for root in (tree, tree.parent / "alias"):
        with pytest.raises(VideoError, match=r"refused: .* leads outside the data root .*absolute path"):
            guard.inside(name, root)


def test_an_absolute_path_stands_for_itself_unless_the_root_is_strict(tree: Path) -> None:
    secret = str(tree.parent / "secret.mp4")
    assert guard.inside(secret, tree) == secret
    assert guard.inside(str(tree / "a.mp4"), tree, strict=True) == str(tree / "a.mp4")
    with pytest.raises(VideoError, match="leads outside"):
        guard.inside(secret, tree, strict=True)
    with pytest.raises(VideoError, match="NUL"):
        guard.inside("a\0b", tree)
    assert guard.inside("etc/hostname", "/") == "/etc/hostname"
