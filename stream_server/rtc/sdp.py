"""Reading what WHIP and WHEP peers send: SDP offers and trickle-ICE fragments (RFC 8840)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aiortc import RTCIceCandidate
from aiortc.sdp import MediaDescription, SessionDescription, candidate_from_sdp

from stream_server.errors import MalformedBody, NegotiationError

VideoCodec = Literal["h264", "vp8"]

MAX_SDP_BYTES = 64 * 1024
MAX_CANDIDATES = 64


@dataclass(frozen=True, slots=True)
class Offer:
    """A checked offer: its text, and the codecs of its first video section, ours only."""

    sdp: str
    codecs: tuple[VideoCodec, ...]


@dataclass(frozen=True, slots=True)
class IceFragment:
    """A trickle-ICE fragment: its text, and in it credentials, candidates, whether all came."""

    text: str
    username: str
    password: str
    candidates: tuple[RTCIceCandidate, ...]
    end: bool


def read_offer(sdp: str, *, role: Literal["publish", "view"]) -> Offer:
    """Check an offer before a peer connection is made for it. Raises `NegotiationError`."""
    try:
        if not sdp.startswith("v=0"):
            raise ValueError("it does not begin with v=0")
        session = SessionDescription.parse(sdp)
    except (ValueError, AssertionError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise MalformedBody(
            f"the body is not a valid SDP offer ({str(error)[:120] or type(error).__name__}): "
            "send what RTCPeerConnection.createOffer() made"
        ) from error
    names = [media.rtp.muxId for media in session.media if media.rtp.muxId]
    if len(names) > len(set(names)):
        raise MalformedBody("two sections of the offer have the same a=mid: each needs its own")
    videos = [media for media in session.media if media.kind == "video" and media.port]
    if not videos:
        raise NegotiationError("the offer has no video section (m=video): add a video track")
    video = videos[0]
    wanted = {"publish": ("sendonly", "sendrecv"), "view": ("recvonly", "sendrecv")}[role]
    if video.direction not in wanted:
        raise NegotiationError(
            f"the video section is {video.direction or 'without a direction'}: to {role}, "
            f"offer it as a={wanted[0]}"
        )
    has_credentials = video.ice is not None and video.ice.usernameFragment
    if not has_credentials or video.dtls is None or not video.dtls.fingerprints:
        raise NegotiationError("the offer lacks ICE credentials or a DTLS fingerprint")
    codecs = supported_codecs(video)
    if not codecs:
        offered = sorted({codec.name for codec in video.rtp.codecs}) or ["none"]
        raise NegotiationError(
            f"no codec in common: H.264 (packetization-mode=1) or VP8 is needed, the offer has "
            f"{', '.join(offered)[:200]}"
        )
    return Offer(sdp, codecs)


def ice_username(sdp: str) -> str:
    """That of the ICE session which a description belongs to; empty if it names none."""
    for line in sdp.splitlines():
        if line.startswith("a=ice-ufrag:"):
            return line.partition(":")[2].strip()
    return ""


def supported_codecs(video: MediaDescription) -> tuple[VideoCodec, ...]:
    """Which of our codecs a video section offers, in its order."""
    found: dict[VideoCodec, None] = {}
    for codec in video.rtp.codecs:
        name = codec.name.upper()
        if name == "VP8":
            found["vp8"] = None
        elif name == "H264" and str(codec.parameters.get("packetization-mode", "0")) == "1":
            found["h264"] = None
    return tuple(found)


def read_fragment(text: str) -> IceFragment:
    """Parse `application/trickle-ice-sdpfrag`. Raises `MalformedBody`."""
    username = password = ""
    mid: str | None = None
    candidates: list[RTCIceCandidate] = []
    end = False
    for line in text.splitlines():
        key, _, value = line.strip().partition(":")
        if key == "a=ice-ufrag":
            username = value
        elif key == "a=ice-pwd":
            password = value
        elif key == "a=mid":
            mid = value
        elif key == "a=end-of-candidates":
            end = True
        elif key == "a=candidate":
            candidates.append(_candidate(value, mid))
    if not username or not password:
        raise MalformedBody("the fragment lacks a=ice-ufrag or a=ice-pwd")
    if len(candidates) > MAX_CANDIDATES:
        raise MalformedBody(f"the fragment has over {MAX_CANDIDATES} candidates")
    return IceFragment(text, username, password, tuple(candidates), end)


def _candidate(value: str, mid: str | None) -> RTCIceCandidate:
    try:
        candidate = candidate_from_sdp(value)
    except (ValueError, AssertionError, IndexError) as error:
        raise MalformedBody(f"not an ICE candidate: a=candidate:{value[:120]}") from error
    candidate.sdpMid = mid
    candidate.sdpMLineIndex = 0
    return candidate
