import pytest
from aiortc import RTCPeerConnection, VideoStreamTrack

from stream_server.errors import MalformedBody, NegotiationError
from stream_server.rtc.sdp import MAX_CANDIDATES, read_fragment, read_offer

CANDIDATE = "a=candidate:1 1 udp 2130706431 127.0.0.1 50000 typ host"
CREDENTIALS = "a=ice-ufrag:abcd\r\na=ice-pwd:" + "p" * 24


async def offer(direction: str = "sendonly", *, video: bool = True) -> str:
    peer = RTCPeerConnection()
    try:
        if video:
            peer.addTransceiver(VideoStreamTrack(), direction=direction)
        else:
            peer.createDataChannel("faces")
        await peer.setLocalDescription(await peer.createOffer())
        return peer.localDescription.sdp
    finally:
        await peer.close()


async def test_a_real_offer_names_our_codecs_in_its_order() -> None:
    assert read_offer(await offer(), role="publish").codecs == ("vp8", "h264")
    assert read_offer(await offer("recvonly"), role="view").codecs == ("vp8", "h264")


@pytest.mark.parametrize(
    "body", ["", "hello", "v=0", "v=0\r\nm=video", "{}", "v=0\r\nm=video 9 UDP x\r\n", "\0" * 50]
)
def test_garbage_is_malformed_or_has_no_video(body: str) -> None:
    with pytest.raises(NegotiationError, match=r"SDP offer|no video section"):
        read_offer(body, role="publish")


async def test_what_an_offer_can_lack() -> None:
    good = await offer()
    without_h264_and_vp8 = good.replace("H264/90000", "AV1/90000").replace("VP8/90000", "VP9/90000")
    for sdp, role, words in (
        (await offer(video=False), "publish", "no video section"),
        (good, "view", "sendonly"),
        (await offer("recvonly"), "publish", "recvonly"),
        (without_h264_and_vp8, "publish", "AV1, VP9"),
        (good.replace("a=ice-ufrag", "a=x"), "publish", "ICE credentials"),
        (good.replace("a=fingerprint", "a=x"), "publish", "fingerprint"),
        (good.replace("a=sendonly\r\n", ""), "publish", "without a direction.*a=sendonly"),
        (good + good[good.index("m=video") :], "publish", "the same a=mid"),
    ):
        with pytest.raises(NegotiationError, match=words):
            read_offer(sdp, role=role)


def test_a_fragment_is_read_with_its_media_id() -> None:
    fragment = read_fragment(
        f"{CREDENTIALS}\r\nm=audio 9 RTP/AVP 0\r\na=mid:0\r\n{CANDIDATE}\r\na=end-of-candidates\r\n"
    )
    assert (fragment.username, fragment.end) == ("abcd", True)
    assert [(c.ip, c.port, c.sdpMid) for c in fragment.candidates] == [("127.0.0.1", 50000, "0")]


@pytest.mark.parametrize(
    "body",
    [
        "",
        CANDIDATE,
        CREDENTIALS + "\r\na=candidate:nonsense",
        CREDENTIALS + ("\r\n" + CANDIDATE) * (MAX_CANDIDATES + 1),
    ],
    ids=["empty", "no credentials", "bad candidate", "too many"],
)
def test_bad_fragments_are_malformed(body: str) -> None:
    with pytest.raises(MalformedBody):
        read_fragment(body)
