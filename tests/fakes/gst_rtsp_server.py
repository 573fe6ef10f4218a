"""A real RTSP server (GStreamer's), for Debian's own python3 with python3-gi.

usage: gst_rtsp_server.py PORT RTP_PORT CODEC [none|basic|digest USER PASSWORD]

Serves /cam with what comes as RTP on 127.0.0.1:RTP_PORT. Prints "ready" when it listens.
"""

import sys

import gi

for library in ("Gst", "GstRtsp", "GstRtspServer"):
    gi.require_version(library, "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

CODECS = {
    "h264": ("H264", 96, "rtph264depay ! h264parse ! rtph264pay config-interval=1"),
    "hevc": ("H265", 96, "rtph265depay ! h265parse ! rtph265pay config-interval=1"),
    "mjpeg": ("JPEG", 26, "rtpjpegdepay ! rtpjpegpay"),
}
ROLE = "viewer"


def main(port: str, rtp_port: str, codec: str, mode: str = "none", *login: str) -> None:
    """Serve until killed."""
    Gst.init(None)
    encoding, payload, chain = CODECS[codec]
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    caps = (
        f"application/x-rtp,media=video,clock-rate=90000,encoding-name={encoding},payload={payload}"
    )
    factory.set_launch(
        f'( udpsrc address=127.0.0.1 port={rtp_port} buffer-size=2000000 caps="{caps}" '
        f"! rtpjitterbuffer latency=50 ! {chain} name=pay0 pt={payload} )"
    )
    factory.set_shared(True)
    if mode != "none":
        _protect(server, factory, mode, *login)
    server.get_mount_points().add_factory("/cam", factory)
    server.attach(None)
    print("ready", flush=True)
    GLib.MainLoop().run()


def _protect(server: object, factory: object, mode: str, user: str, password: str) -> None:
    auth, token = GstRtspServer.RTSPAuth(), GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", ROLE)
    if mode == "digest":
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(user, password, token)
    else:
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    for permission in ("access", "construct"):
        permissions.add_permission_for_role(ROLE, f"media.factory.{permission}", True)
    factory.set_permissions(permissions)


if __name__ == "__main__":
    main(*sys.argv[1:])
