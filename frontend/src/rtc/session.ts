import { call, Problem } from "../api/client";
import { type Candidate, iceServersOf, trickleFragment } from "./signalling";

/** The sessions that the server holds for this page: they are ended when the page goes away. */
const open = new Set<HttpSession>();

export function endAllSessions(): void {
  for (const session of [...open]) session.end();
}

/**
 * The HTTP side of one WHIP or WHEP session: POST of the offer, PATCH of trickled candidates with
 * the session's entity tag, DELETE at its end.
 */
export class HttpSession {
  private pending: Candidate[] = [];
  private gathered = false;
  private patching = false;
  private trickles = true;

  private constructor(
    private readonly pc: RTCPeerConnection,
    private readonly location: string,
    private readonly etag: string | null,
    private readonly offer: string,
  ) {
    open.add(this);
    pc.addEventListener("icecandidate", ({ candidate }) => {
      if (candidate?.candidate) this.pending.push(candidate);
      else this.gathered = true;
      void this.trickle();
    });
  }

  /**
   * Offers `pc` to the endpoint `url` and applies its answer. Gathering starts after the server's
   * reply, so that relays named in its `Link` headers are used from the first candidate on.
   * Throws a `Problem`; leaves no session behind when `signal` was aborted meanwhile.
   */
  static async start(
    pc: RTCPeerConnection,
    url: string,
    signal: AbortSignal,
    editAnswer: (sdp: string) => string = (sdp) => sdp,
  ): Promise<HttpSession> {
    const offer = await pc.createOffer();
    const sdp = offer.sdp ?? "";
    const response = await call(url, {
      method: "POST",
      headers: { "Content-Type": "application/sdp" },
      body: sdp,
    });
    const location = response.headers.get("Location");
    if (location === null)
      throw new Problem(502, "The server's answer names no session (Location).");
    const session = new HttpSession(
      pc,
      new URL(location, response.url || url).href,
      response.headers.get("ETag"),
      sdp,
    );
    try {
      const answer = await response.text();
      const iceServers = iceServersOf(response.headers.get("Link"));
      if (iceServers.length > 0) pc.setConfiguration({ ...pc.getConfiguration(), iceServers });
      await pc.setLocalDescription(offer);
      await pc.setRemoteDescription({ type: "answer", sdp: editAnswer(answer) });
      signal.throwIfAborted();
    } catch (error) {
      session.end();
      throw error;
    }
    return session;
  }

  /** Closes the connection and tells the server; safe to call twice and while the page unloads. */
  end(): void {
    if (!open.delete(this)) return;
    this.pc.close();
    call(this.location, { method: "DELETE", keepalive: true }).catch(() => {
      // The server also ends a session whose peer is gone; there is nobody left to tell.
    });
  }

  private async trickle(): Promise<void> {
    if (this.patching || !this.trickles || !open.has(this)) return;
    this.patching = true;
    // One turn of the event loop, so that candidates found together travel together.
    await new Promise((resolve) => setTimeout(resolve, 0));
    const body = trickleFragment(this.offer, this.pending.splice(0), this.gathered);
    const told = this.gathered;
    const headers: Record<string, string> = { "Content-Type": "application/trickle-ice-sdpfrag" };
    if (this.etag !== null) headers["If-Match"] = this.etag;
    try {
      await call(this.location, { method: "PATCH", headers, body });
    } catch {
      // Without trickle the server still learns our address from our own checks; if it does not,
      // the connection fails and the link starts over.
      this.trickles = false;
    }
    this.patching = false;
    if (this.pending.length > 0 || this.gathered !== told) void this.trickle();
  }
}
