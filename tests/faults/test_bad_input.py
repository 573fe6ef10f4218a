"""Bad input of every kind to the real service: a clear 4xx each, and it goes on serving."""

from __future__ import annotations

import io
import json
import socket
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests import peers

JSON = {"content-type": "application/json"}
SDP = {"content-type": "application/sdp"}
TRICKLE = {"content-type": "application/trickle-ice-sdpfrag"}
SECRET = "hunter2"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[peers.Service]:
    """One service for all cases, so that each also meets what the others left behind."""
    folder = tmp_path_factory.mktemp("bad-input")
    options = {
        "MASKSTREAM__API__MAX_UPLOAD_MB": "1",
        "MASKSTREAM__API__MAX_UPLOAD_PIXELS": "4000000",
    }
    running = peers.start_service(folder, cache_dir, "--source", "demo=demo:", env=options)
    yield running
    running.stop()


@dataclass(frozen=True)
class Bad:
    """A request and the status it must get; `says` must be in the problem's detail."""

    name: str
    status: int
    method: str
    path: str
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    says: str = ""


def stream(name: str, body: object, status: int = 422, says: str = "") -> Bad:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Bad(f"json: {name}", status, "POST", "/api/streams", content, JSON, says)


def url(value: str, says: str) -> Bad:
    return stream(f"url {value[:40]!r}", {"name": "bad", "url": value}, says=says)


def named(name: object, says: str = "lower-case") -> Bad:
    return stream(f"name {str(name)[:20]!r}", {"name": name, "url": "demo:"}, says=says)


def picture(
    name: str, content: bytes, says: str, status: int = 422, kind: str = "image/jpeg"
) -> Bad:
    headers = {"content-type": kind}
    return Bad(f"picture: {name}", status, "POST", "/api/predict", content, headers, says)


def sdp(name: str, content: bytes, status: int, says: str = "", path: str = "/whip/cam") -> Bad:
    return Bad(f"sdp {path}: {name}", status, "POST", path, content, SDP, says)


# --- pictures -------------------------------------------------------------------------------------


def saved(form: str, size: tuple[int, int] = (64, 64)) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(out, form)
    return out.getvalue()


JPEG, PNG, WEBP, BMP, GIF = (saved(form) for form in ("JPEG", "PNG", "WEBP", "BMP", "GIF"))


def png_claiming(width: int, height: int, depth: int = 8) -> bytes:
    """A PNG whose header claims this size, with a megapixel of zeros packed behind it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    packed = zlib.compress(bytes(3_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed)


def jpeg_claiming(width: int, height: int) -> bytes:
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", height, width) + JPEG[at + 4 :]


FORM = {"content-type": "multipart/form-data; boundary=b"}


def form(name: str, content: bytes, status: int, says: str) -> Bad:
    return Bad(f"form: {name}", status, "POST", "/api/predict", content, FORM, says)


def part(disposition: str, content: bytes) -> bytes:
    head = f"--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode()
    return head + content + b"\r\n--b--\r\n"


# --- SDP ------------------------------------------------------------------------------------------


def offer(
    codec: str = "H264/90000",
    parameters: str = "packetization-mode=1",
    direction: str = "sendonly",
    media: str = "video 9",
    ice: str = "a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\n",
    dtls: str = "a=fingerprint:sha-256 " + ":".join(["AB"] * 32) + "\r\na=setup:actpass\r\n",
) -> bytes:
    return (
        "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n"
        f"m={media} UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=rtcp-mux\r\n"
        f"a={direction}\r\na=rtpmap:96 {codec}\r\na=fmtp:96 {parameters}\r\n{ice}{dtls}"
    ).encode()


def offers(path: str, direction: str, wrong: str) -> list[Bad]:
    good = offer(direction=direction)
    return [
        sdp("empty", b"", 400, "SDP", path),
        sdp("garbage", b"\x00\x01 not sdp", 400, "SDP", path),
        sdp("not UTF-8", b"v=0\r\n\xff\xfe\xfd", 400, "UTF-8", path),
        sdp("only a version", b"v=0\r\n", 422, "video", path),
        sdp("cut off", good[:150], 422, "", path),
        sdp(
            "a JSON offer",
            json.dumps({"sdp": good.decode(), "type": "offer"}).encode(),
            400,
            "",
            path,
        ),
        sdp(
            "no video",
            offer(media="audio 9", codec="opus/48000", direction=direction),
            422,
            "video",
            path,
        ),
        sdp("video refused", offer(media="video 0", direction=direction), 422, "video", path),
        sdp("VP9 only", offer("VP9/90000", "profile-id=0", direction), 422, "VP9", path),
        sdp("AV1 only", offer("AV1/90000", "level-idx=5", direction), 422, "AV1", path),
        sdp("the wrong way", offer(direction=wrong), 422, direction, path),
        sdp("inactive", offer(direction="inactive"), 422, direction, path),
        sdp("no ICE", offer(ice="", direction=direction), 422, "ICE", path),
        sdp("no fingerprint", offer(dtls="", direction=direction), 422, "", path),
        sdp("broken m-line", good.replace(b"m=video 9", b"m=video nine"), 400, "", path),
        sdp(
            "broken rtpmap", good.replace(b"a=rtpmap:96 H264/90000", b"a=rtpmap:x y"), 400, "", path
        ),
        sdp("broken fmtp", good.replace(b"a=fmtp:96", b"a=fmtp:"), 400, "", path),
        sdp("broken fingerprint", good.replace(b"sha-256 AB", b""), 400, "", path),
        sdp("huge", good + b"a=x:y\r\n" * 20_000, 413, "bytes", path),
        sdp("gigantic", b"v" * 1_000_000, 413, "bytes", path),
        Bad(f"{path}: plain text", 415, "POST", path, good, {"content-type": "text/plain"}, "sdp"),
        Bad(f"{path}: no type", 415, "POST", path, good, {}, "sdp"),
        Bad(f"{path}: JSON", 415, "POST", path, b"{}", JSON, "application/sdp"),
        Bad(f"{path}: GET", 405, "GET", path, says="POST"),
        Bad(f"{path}: PUT", 405, "PUT", path, good, SDP, "POST"),
        Bad(f"{path}: unknown session, PATCH", 404, "PATCH", f"{path}/nobody", b"a=x", TRICKLE),
        Bad(f"{path}: unknown session, DELETE", 404, "DELETE", f"{path}/nobody"),
        Bad(f"{path}: unknown session, POST", 405, "POST", f"{path}/nobody", good, SDP),
        Bad(
            f"{path}: a foreign page",
            403,
            "POST",
            path,
            good,
            SDP | {"origin": "http://evil.example"},
        ),
    ]


CASES = [
    # JSON
    stream("empty", b"", says="missing"),
    stream("not JSON", b"{name: demo}", says="not JSON"),
    stream("cut off", b'{"name": "a", "url": "demo', says="not JSON"),
    stream("a list", [], says="object"),
    stream("a text", "demo:", says="object"),
    stream("a number", 1e308, says="object"),
    stream("null", None, says="object"),
    stream("not UTF-8", b'{"name": "\xff\xfe"}', 400, "read"),
    stream("a lone surrogate", b'{"name": "\\ud800", "url": "demo:"}', says="lower-case"),
    stream("10 000 deep", b"[" * 10_000 + b"]" * 10_000, 400, "read"),
    stream("a number of 100 000 digits", b'{"name":' + b"9" * 100_000 + b"}", 400, "read"),
    stream("huge", b'{"name":"' + b"a" * 400_000 + b'"}', 413, "bytes"),
    stream("nothing in it", {}, says="'name' is missing"),
    stream("no URL", {"name": "bad"}, says="'url' is missing"),
    stream("a misspelt field", {"name": "bad", "ulr": "demo:"}, says="did you mean 'url'?"),
    stream("a stranger's field", {"name": "bad", "url": "demo:", "admin": True}, says="'admin'"),
    stream("NaN", b'{"name": NaN, "url": Infinity}', says="'name'"),
    stream("a URL that is a list", {"name": "bad", "url": ["demo:"]}, says="'url'"),
    stream("a stream that is there", {"name": "demo", "url": "demo:"}, 409, "exists"),
    Bad("json as text", 415, "POST", "/api/streams", b"{}", {"content-type": "text/plain"}, "JSON"),
    Bad("json as a form", 415, "POST", "/api/streams", b"name=a", {}, "application/json"),
    # names
    *[named(name) for name in ("", "A", "-a", "_a", "a b", "a/b", "../a", "a" * 64)],
    *[named(name) for name in ("a\x00b", "ä", "a\n")],
    *[named(name, "string") for name in (None, 3, True, {"a": 1})],
    Bad("name in the path", 422, "GET", "/api/streams/NO", says="lower-case"),
    Bad("name with a NUL", 422, "GET", "/api/streams/a%00b", says="lower-case"),
    Bad("name that leads out", 404, "GET", "/api/streams/..%2f..%2fetc%2fpasswd"),
    Bad("name of 10 000 letters", 422, "DELETE", "/api/streams/" + "a" * 10_000),
    Bad("unknown name", 404, "GET", "/api/streams/nobody", says="nobody"),
    Bad("unknown name, DELETE", 404, "DELETE", "/api/streams/nobody"),
    Bad("unknown name, events", 404, "GET", "/api/streams/nobody/events"),
    Bad("unknown name, picture", 404, "GET", "/streams/nobody.jpg"),
    Bad("unknown name, pictures", 404, "GET", "/streams/nobody.mjpg"),
    # URLs
    url("", "1 character"),
    url("x" * 5000, "2048"),
    url("/etc/passwd", "scheme"),
    url("file:///etc/passwd", "'file'"),
    url("http://169.254.169.254/latest", "'http'"),
    url("concat:/etc/passwd|/etc/hosts", "'concat'"),
    url("pipe:0", "'pipe'"),
    url("rtsp://", "no host"),
    url("rtsp:///path", "no host"),
    url("rtsp://cam:99999/", "port"),
    url("rtsp://cam:x/", "port"),
    url("rtsp://[::1/", "host"),
    url(f"rtsp://admin:{SECRET}@cam\r\nX: y/", "control"),
    url(f"rtsp://admin:{SECRET}@ca m/", "blanks"),
    url(f"ftp://admin:{SECRET}@cam/", "'ftp'"),
    url("demo:../../x", "just 'demo:'"),
    url("webrtc:x", "just 'webrtc:'"),
    # pictures
    picture("0 bytes", b"", "empty"),
    picture("text", b"hello", "not a picture"),
    picture("zeros", bytes(5000), "not a picture"),
    picture("a GIF", GIF, "not a picture"),
    picture("an SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
    picture("the first bytes of a JPEG", JPEG[:3], "picture"),
    picture("half a JPEG", JPEG[: len(JPEG) // 2], "cut off"),
    picture("half a PNG", PNG[: len(PNG) // 2], "cut off", kind="image/png"),
    picture("half a WebP", WEBP[: len(WEBP) // 2], "picture", kind="image/webp"),
    picture("half a BMP", BMP[: len(BMP) // 2], "cut off", kind="image/bmp"),
    picture("a PNG bomb", png_claiming(50_000, 50_000), "pixels", kind="image/png"),
    picture("a PNG of 100 megapixels", png_claiming(10_000, 10_000), "pixels", kind="image/png"),
    picture("a PNG of 0 pixels", png_claiming(0, 0), "picture", kind="image/png"),
    picture("a PNG of 3 bits", png_claiming(9, 9, 3), "picture", kind="image/png"),
    picture("a JPEG bomb", jpeg_claiming(65_500, 65_500), "pixels"),
    picture("over the bytes", bytes(1_100_000), "bytes", 413),
    picture("far over the bytes", bytes(3_000_000), "bytes", 413),
    picture("a GIF as such", GIF, "image/png", 415, "image/gif"),
    picture("a picture as text", JPEG, "Content-Type", 415, "text/plain"),
    picture("a broken type", JPEG, "Content-Type", 415, ";;;"),
    form("no body", b"", 422, "'image'"),
    form("no such part", b"garbage", 400, "form"),
    form("another field", part('name="photo"; filename="a.jpg"', JPEG), 422, "'photo'"),
    form("text", part('name="image"', b"hello"), 422, "file"),
    form("empty file", part('name="image"; filename="a.jpg"', b""), 422, "empty"),
    form("no name", part('filename="a.jpg"', JPEG), 400, "name"),
    form("cut off", part('name="image"; filename="a.jpg"', JPEG)[:300], 422, ""),
    Bad("form without boundary", 400, "POST", "/api/predict", b"x",
        {"content-type": "multipart/form-data"}, "boundary"),
    Bad("picture for an XML reader", 406, "POST", "/api/predict", JPEG,
        {"content-type": "image/jpeg", "accept": "text/xml"}, "application/json"),
    # SDP
    *offers("/whip/cam", "sendonly", "recvonly"),
    *offers("/whep/demo", "recvonly", "sendonly"),
    sdp("bad name", offer(), 422, "lower-case", "/whip/NO"),
    sdp("a camera's name", offer(), 409, "demo", "/whip/demo"),
    sdp("unknown stream", offer(direction="recvonly"), 404, "nobody", "/whep/nobody"),
    # the rest
    Bad("unknown path", 404, "GET", "/api/nothing", says="/api/nothing"),
    Bad("unknown path, POST", 404, "POST", "/admin", b"x"),
    Bad("a way out", 404, "GET", "/assets/..%2f..%2f..%2fapp.py"),
    Bad("a dotted way out", 404, "GET", "/%2e%2e/%2e%2e/etc/passwd"),
    Bad("PUT", 405, "PUT", "/api/streams", b"{}", JSON, "POST"),
    Bad("TRACE", 405, "TRACE", "/api/info"),
    Bad("a method of others", 405, "PROPFIND", "/api/streams", says="GET"),
    Bad("no rate", 422, "GET", "/streams/demo.mjpg?fps=0", says="'fps'"),
    Bad("a rate that is none", 422, "GET", "/streams/demo.mjpg?fps=nan", says="'fps'"),
    Bad("a foreign page", 403, "POST", "/api/streams", b"{}",
        JSON | {"origin": "https://evil.example"}, "cors_origins"),
    Bad("no page at all", 403, "DELETE", "/api/streams/demo", b"", {"origin": "null"}),
]  # fmt: skip


def test_there_are_more_than_fifty_kinds() -> None:
    assert len(CASES) > 50
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_gets_a_problem(service: peers.Service, case: Bad) -> None:
    with httpx.Client(base_url=service.url, timeout=10) as client:
        answer = client.request(
            case.method, case.path, content=case.content, headers=dict(case.headers)
        )
    assert answer.status_code == case.status, answer.text[:500]
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == case.status
    assert problem["title"]
    assert problem["detail"]
    assert case.says in problem["detail"]
    assert SECRET not in answer.text
    if case.status == 405:
        assert answer.headers["allow"]


RAW = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "no version": b"GET /\r\n\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\nHost: a\r\nbroken\r\n\r\n",
    "a NUL in a header": b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
    "no end of a header": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
    "two lengths": b"POST /api/streams HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
    b"Content-Length: 2\r\n\r\nxy",
    "a negative length": b"POST /api/streams HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "a length and chunks": b"POST /api/streams HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a broken chunk": b"POST /api/streams HTTP/1.1\r\nHost: a\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a path that is none": b"GET nothing HTTP/1.1\r\nHost: a\r\n\r\n",
    "a path of bytes": b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.mark.parametrize("name", RAW)
def test_bytes_that_are_not_http_get_no_500(service: peers.Service, name: str) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=5) as connection:
        connection.sendall(RAW[name])
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while chunk := connection.recv(65536):
                answer += chunk
        except ConnectionResetError:
            return  # hung up on, which says enough
    assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 2")), answer[:200]


def test_a_client_that_leaves_in_the_middle_of_an_upload(service: peers.Service) -> None:
    for path, kind in (("/api/predict", "image/jpeg"), ("/whip/x", "application/sdp")):
        with socket.create_connection(("127.0.0.1", service.port), timeout=5) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\n"
            connection.sendall(f"{head}Content-Length: 50000\r\n\r\nxxxx".encode())
    assert service.get("/healthz") == {"status": "ok"}


def test_it_still_serves_and_its_log_is_clean(service: peers.Service) -> None:
    with httpx.Client(base_url=service.url, timeout=20) as client:
        found = client.post("/api/predict", content=JPEG, headers={"content-type": "image/jpeg"})
        assert found.status_code == 200
        assert [one["name"] for one in client.get("/api/streams").json()["streams"]] == ["demo"]
        added = client.post("/api/streams", json={"name": "good", "url": "demo:"})
        assert added.status_code == 201
        assert client.delete("/api/streams/good").status_code == 204
        peers.wait_until(
            lambda: service.get("/api/streams/demo")["state"] == "live", 20, "the demo is live"
        )
        samples = client.get("/metrics").text
    refused = [line for line in samples.splitlines() if 'status="5' in line]
    assert not refused, refused
    log = service.log.read_text()
    assert "Traceback" not in log
    assert '"level": "error"' not in log
    assert SECRET not in log
