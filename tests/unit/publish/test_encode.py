"""Encoders as viewers need them, and which of them is taken where."""

import av
import numpy as np
import pytest
from av.error import FFmpegError
from structlog.testing import capture_logs

from stream_server.frames import Picture
from stream_server.publish import encode
from stream_server.publish.encode import EncodeOptions, VideoEncoder, choose_h264, open_encoder


def pictures(count, width=320, height=240):
    rng = np.random.default_rng(3)
    scene = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return [Picture.from_bgr(np.roll(scene, 4 * n, 1)) for n in range(count)]


def decoded(packets, codec):
    decoder = av.CodecContext.create({"h264": "h264", "vp8": "vp8"}[codec], "r")
    return [f for p in packets for f in decoder.decode(av.Packet(bytes(p)))] + decoder.decode(None)


@pytest.fixture
def without_gpu(monkeypatch):
    def opened(name, *rest):
        if name == "h264_nvenc":
            raise FFmpegError(1, "no device")
        return open_encoder(name, *rest)

    monkeypatch.setattr(encode, "open_encoder", opened)


@pytest.fixture
def with_gpu(monkeypatch):
    """x264 under the other's name: what is asked is whether it is taken, not how it encodes."""
    monkeypatch.setattr(encode, "open_encoder", lambda name, *rest: open_encoder("libx264", *rest))


@pytest.mark.parametrize("codec", ["h264", "vp8"])
def test_each_picture_becomes_one_packet_at_once_and_key_frames_come_on_demand(codec):
    encoder = VideoEncoder(codec, EncodeOptions())
    frames = []
    for number, picture in enumerate(pictures(6)):
        made = encoder.encode(picture, captured=number / 30, keyframe=number == 4)
        assert len(made) == 1, "none is held back"
        frames += made
    assert [frame.keyframe for frame in frames] == [True, False, False, False, True, False]
    assert len(decoded([f.packet for f in frames[4:]], codec)) == 2, "it starts at the key frame"


def test_a_gpu_that_takes_no_more_pictures_is_replaced_by_the_cpu_and_told(without_gpu):
    encoder = VideoEncoder("h264", EncodeOptions(h264="h264_nvenc"))
    with capture_logs() as logs:
        frames = encoder.encode(pictures(1)[0], captured=0.0, keyframe=False)
    assert len(decoded([f.packet for f in frames], "h264")) == 1
    (line,) = [entry for entry in logs if entry["event"] == "encoder_fell_back"]
    assert (line["encoder"], line["error"]) == ("h264_nvenc", "no device")


@pytest.mark.usefixtures("without_gpu")
def test_without_a_gpu_the_cpu_encodes_and_the_reason_is_told():
    assert choose_h264("auto") == ("libx264", "NVENC is not usable (no device)")
    with pytest.raises(FFmpegError, match="no device"):
        choose_h264("nvenc")


@pytest.mark.usefixtures("with_gpu")
def test_a_gpu_that_encodes_is_taken_unless_the_cpu_is_asked_for():
    assert choose_h264("auto")[0] == choose_h264("nvenc")[0] == "h264_nvenc"
    assert choose_h264("cpu") == ("libx264", "publish.encoder is cpu")


def test_the_gpu_s_encoder_is_given_the_same_quality_and_limits(monkeypatch):
    class Context:
        """Takes what it is told; is never opened."""

        def open(self):
            pass

    made = Context()
    monkeypatch.setattr(av.CodecContext, "create", lambda *_: made)
    monkeypatch.setattr(av, "VideoCodecContext", Context)
    open_encoder("h264_nvenc", EncodeOptions(crf=30, bitrate=1_000_000), 1280, 720)
    assert made.options["cq"] == "30"
    assert made.options["maxrate"] == "1000000"
    assert made.max_b_frames == 0
