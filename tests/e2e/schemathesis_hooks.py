"""What the OpenAPI document cannot say: how pictures and the URLs of cameras are made."""

import io

import schemathesis
from hypothesis import strategies as st
from PIL import Image

PILLOW_NAMES = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/webp": "WEBP",
    "image/bmp": "BMP",
}


def pictures(form: str) -> st.SearchStrategy[bytes]:
    def saved(width: int, height: int, shade: int) -> bytes:
        out = io.BytesIO()
        Image.new("RGB", (width, height), (shade, 255 - shade, 90)).save(out, form)
        return out.getvalue()

    return st.builds(saved, st.integers(1, 80), st.integers(1, 80), st.integers(0, 255))


for media_type, form in PILLOW_NAMES.items():
    schemathesis.openapi.media_type(media_type, pictures(form))

# Nobody answers at these: 127.0.0.1 refuses at once, and .invalid never is a host.
SOURCES = st.one_of(
    st.just("webrtc:"),
    st.builds(
        "{}://{}:{}/{}".format,
        st.sampled_from(["rtsp", "rtsps", "RTSP"]),
        st.sampled_from(["127.0.0.1", "cam.invalid", "u:p%40ss@cam.invalid", "[::1]"]),
        st.integers(1, 9),
        st.text("abcXYZ019-._~/?=&%20", max_size=40),
    ),
)
schemathesis.openapi.format("source-url", SOURCES)
