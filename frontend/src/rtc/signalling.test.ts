import { expect, test } from "vitest";
import { iceServersOf, trickleFragment, withStartBitrate } from "./signalling";

test("ICE servers come out of several Link headers joined by commas", () => {
  const link =
    '<stun:stun.example:3478>; rel="ice-server", ' +
    '<turn:turn.example:3478?transport=udp>; rel="ice-server"; username="a,b;c"; credential="s\\"x"; credential-type="password", ' +
    '</docs>; rel="help"';
  expect(iceServersOf(link)).toEqual([
    { urls: ["stun:stun.example:3478"] },
    { urls: ["turn:turn.example:3478?transport=udp"], username: "a,b;c", credential: 's"x' },
  ]);
});

test("no Link header, or one about other things, gives no ICE server", () => {
  expect(iceServersOf(null)).toEqual([]);
  expect(iceServersOf('<https://example.org/>; rel="next"')).toEqual([]);
});

const OFFER = [
  "v=0",
  "o=- 1 2 IN IP4 127.0.0.1",
  "s=-",
  "a=group:BUNDLE 0 1",
  "m=video 9 UDP/TLS/RTP/SAVPF 96",
  "a=ice-ufrag:uFrA",
  "a=ice-pwd:secretsecretsecretsecret",
  "a=mid:0",
  "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
  "a=ice-ufrag:uFrA",
  "a=ice-pwd:secretsecretsecretsecret",
  "a=mid:1",
  "",
].join("\r\n");

test("a trickle fragment carries credentials and the candidates under their m-line", () => {
  const fragment = trickleFragment(
    OFFER,
    [{ candidate: "candidate:1 1 udp 2122260223 192.0.2.1 50000 typ host", sdpMid: "0" }],
    false,
  );
  expect(fragment.split("\r\n")).toEqual([
    "a=group:BUNDLE 0 1",
    "a=ice-ufrag:uFrA",
    "a=ice-pwd:secretsecretsecretsecret",
    "m=video 9 UDP/TLS/RTP/SAVPF 0",
    "a=mid:0",
    "a=candidate:1 1 udp 2122260223 192.0.2.1 50000 typ host",
    "",
  ]);
});

test("the end of candidates is told even when there was none", () => {
  const fragment = trickleFragment(OFFER, [], true);
  expect(fragment).toContain("a=mid:0\r\na=end-of-candidates\r\n");
  expect(fragment).not.toContain("a=mid:1");
});

test("the start bitrate joins the first video format's parameters", () => {
  const answer =
    "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 102 97\r\na=rtpmap:102 H264/90000\r\na=fmtp:102 packetization-mode=1\r\n";
  expect(withStartBitrate(answer, 1500)).toContain(
    "a=fmtp:102 packetization-mode=1;x-google-start-bitrate=1500\r\n",
  );
});

test("the start bitrate gets a line of its own for a format without parameters", () => {
  const answer = "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=rtpmap:96 VP8/90000\r\na=sendonly\r\n";
  expect(withStartBitrate(answer, 900)).toContain(
    "a=rtpmap:96 VP8/90000\r\na=fmtp:96 x-google-start-bitrate=900\r\na=sendonly",
  );
  expect(withStartBitrate("v=0\r\n", 900)).toBe("v=0\r\n");
});
