import { Problem } from "../api/client";
import { HttpSession } from "./session";
import { withStartBitrate } from "./signalling";

const CONNECT_TIMEOUT_MS = 12_000;
/** A connection that ICE calls "disconnected" often comes back by itself within this time. */
const GRACE_MS = 3000;
const START_KBPS = 1500;
const MAX_BITRATE = 2_500_000;

export type EndReason = "closed-by-server" | "lost";

/** One connected peer. `ended` resolves when it is of no more use; `close` ends it from here. */
export interface Peer {
  readonly pc: RTCPeerConnection;
  readonly ended: Promise<EndReason>;
  close(): void;
}

function newConnection(iceServers: RTCIceServer[]): RTCPeerConnection {
  if (typeof RTCPeerConnection === "undefined") {
    throw new Problem(
      501,
      "This browser has no WebRTC. Use a current Firefox, Chrome, Edge or Safari.",
    );
  }
  return new RTCPeerConnection({ iceServers, bundlePolicy: "max-bundle" });
}

function dtlsTransport(pc: RTCPeerConnection): RTCDtlsTransport | null {
  const [transceiver] = pc.getTransceivers();
  return transceiver?.sender.transport ?? transceiver?.receiver.transport ?? null;
}

/** Resolves when `pc` is connected; a `Problem` if it cannot be in time. */
function connected(pc: RTCPeerConnection, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (message: string) => settle(() => reject(new Problem(0, message)));
    const timer = setTimeout(
      () => fail("No media connection to the server came about (is UDP blocked on this network?)."),
      CONNECT_TIMEOUT_MS,
    );
    const look = () => {
      if (pc.connectionState === "connected") settle(resolve);
      else if (pc.connectionState === "failed" || pc.connectionState === "closed") {
        fail("The media connection to the server failed.");
      }
    };
    const abort = () => settle(() => reject(signal.reason));
    const settle = (how: () => void) => {
      clearTimeout(timer);
      pc.removeEventListener("connectionstatechange", look);
      signal.removeEventListener("abort", abort);
      how();
    };
    pc.addEventListener("connectionstatechange", look);
    signal.addEventListener("abort", abort);
    if (signal.aborted) abort();
    else look();
  });
}

/** Resolves when a connected `pc` is closed by the other side or lost for longer than the grace. */
function ended(pc: RTCPeerConnection): Promise<EndReason> {
  return new Promise((resolve) => {
    let grace: ReturnType<typeof setTimeout> | undefined;
    pc.addEventListener("connectionstatechange", () => {
      clearTimeout(grace);
      if (pc.connectionState === "failed") resolve("lost");
      else if (pc.connectionState === "closed") resolve("closed-by-server");
      else if (pc.connectionState === "disconnected") {
        grace = setTimeout(() => resolve("lost"), GRACE_MS);
      }
    });
    const dtls = dtlsTransport(pc);
    dtls?.addEventListener("statechange", () => {
      if (dtls.state === "closed") resolve("closed-by-server");
      else if (dtls.state === "failed") resolve("lost");
    });
  });
}

async function bringUp(
  pc: RTCPeerConnection,
  url: string,
  signal: AbortSignal,
  editAnswer?: (sdp: string) => string,
): Promise<Peer> {
  let session: HttpSession | undefined;
  try {
    session = await HttpSession.start(pc, url, signal, editAnswer);
    await connected(pc, signal);
  } catch (error) {
    session?.end();
    pc.close();
    throw error;
  }
  return { pc, ended: ended(pc), close: () => session.end() };
}

/** Publishes a camera's track by WHIP. */
export async function publish(
  track: MediaStreamTrack,
  url: string,
  iceServers: RTCIceServer[],
  signal: AbortSignal,
): Promise<Peer> {
  const pc = newConnection(iceServers);
  const { sender } = pc.addTransceiver(track, {
    direction: "sendonly",
    sendEncodings: [{ maxBitrate: MAX_BITRATE }],
  });
  const parameters = sender.getParameters() as RTCRtpSendParameters & {
    degradationPreference?: "maintain-framerate";
  };
  parameters.degradationPreference = "maintain-framerate";
  await sender.setParameters(parameters).catch(() => {
    // Firefox refuses the preference before negotiation; its default is balanced, which is fine.
  });
  return bringUp(pc, url, signal, (answer) => withStartBitrate(answer, START_KBPS));
}

/** H.264 before the others: the server encodes it cheapest, and phones decode it in hardware. */
function preferH264(transceiver: RTCRtpTransceiver): void {
  const codecs = RTCRtpReceiver.getCapabilities("video")?.codecs ?? [];
  const isH264 = ({ mimeType }: RTCRtpCodec) => mimeType.toLowerCase() === "video/h264";
  if (!codecs.some(isH264) || !("setCodecPreferences" in transceiver)) return;
  transceiver.setCodecPreferences([
    ...codecs.filter(isH264),
    ...codecs.filter((codec) => !isH264(codec)),
  ]);
}

/** A peer that plays: `say` sends to the server, `buffer` holds pictures back for so long. */
export interface Player extends Peer {
  say(message: unknown): void;
  buffer(ms: number): void;
}

function bufferOf(receiver: RTCRtpReceiver): (ms: number) => void {
  const hints = receiver as RTCRtpReceiver & {
    jitterBufferTarget?: number | null;
    playoutDelayHint?: number | null;
  };
  return (ms) => {
    if ("jitterBufferTarget" in receiver) hints.jitterBufferTarget = ms;
    if ("playoutDelayHint" in receiver) hints.playoutDelayHint = ms / 1000;
  };
}

/**
 * Plays a stream by WHEP, `bufferMs` late. `onTrack` gets its picture, `onMessage` each message of
 * the "faces" channel.
 */
export async function play(
  url: string,
  iceServers: RTCIceServer[],
  signal: AbortSignal,
  bufferMs: number,
  onTrack: (stream: MediaStream) => void,
  onMessage: (message: string) => void,
): Promise<Player> {
  const pc = newConnection(iceServers);
  const transceiver = pc.addTransceiver("video", { direction: "recvonly" });
  preferH264(transceiver);
  const buffer = bufferOf(transceiver.receiver);
  buffer(bufferMs);
  const channel = pc.createDataChannel("faces", { ordered: false, maxRetransmits: 0 });
  channel.addEventListener("message", ({ data }) => {
    if (typeof data === "string") onMessage(data);
  });
  pc.addEventListener("track", ({ track }) => onTrack(new MediaStream([track])));
  const peer = await bringUp(pc, url, signal);
  const say = (message: unknown) => {
    if (channel.readyState === "open") channel.send(JSON.stringify(message));
  };
  return { ...peer, say, buffer };
}
