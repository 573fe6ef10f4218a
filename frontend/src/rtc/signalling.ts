/** The texts that WHIP and WHEP put on the wire (RFC 9725, RFC 8840), as pure functions. */

export interface Candidate {
  candidate: string;
  sdpMid: string | null;
}

/** ICE servers of `Link: <turn:…>; rel="ice-server"; username="…"; credential="…"` headers. */
export function iceServersOf(link: string | null): RTCIceServer[] {
  const servers: RTCIceServer[] = [];
  for (const [, url = "", rest = ""] of (link ?? "").matchAll(
    /<([^>]*)>((?:\s*;\s*[\w-]+\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^\s",;]+))*)/g,
  )) {
    const params = new Map<string, string>();
    for (const [, key = "", quoted, token = ""] of rest.matchAll(
      /;\s*([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",;]+))/g,
    )) {
      params.set(key.toLowerCase(), quoted?.replace(/\\(.)/g, "$1") ?? token);
    }
    if (params.get("rel") !== "ice-server") continue;
    const server: RTCIceServer = { urls: [url] };
    const username = params.get("username");
    const credential = params.get("credential");
    if (username !== undefined) server.username = username;
    if (credential !== undefined) server.credential = credential;
    servers.push(server);
  }
  return servers;
}

/**
 * The `application/trickle-ice-sdpfrag` body that tells `candidates` of the session `offer`
 * belongs to, under the m-lines they were gathered for; `ended` closes the gathering.
 */
export function trickleFragment(offer: string, candidates: Candidate[], ended: boolean): string {
  const line = (name: string) => offer.match(new RegExp(`^a=${name}:(.*?)\\r?$`, "m"))?.[1] ?? "";
  const mids = [...offer.matchAll(/^m=(\S+)[\s\S]*?^a=mid:(\S+)/gm)];
  const lines = [`a=ice-ufrag:${line("ice-ufrag")}`, `a=ice-pwd:${line("ice-pwd")}`];
  const group = line("group");
  if (group) lines.unshift(`a=group:${group}`);
  for (const [index, [, kind, mid]] of mids.entries()) {
    const own = candidates.filter((c) => (c.sdpMid ?? mids[0]?.[2]) === mid);
    if (own.length === 0 && index > 0) continue;
    const protocol =
      kind === "application" ? "UDP/DTLS/SCTP webrtc-datachannel" : "UDP/TLS/RTP/SAVPF 0";
    lines.push(`m=${kind} 9 ${protocol}`, `a=mid:${mid}`);
    lines.push(...own.map((c) => `a=${c.candidate}`));
    if (ended) lines.push("a=end-of-candidates");
  }
  return `${lines.join("\r\n")}\r\n`;
}

/**
 * The answer with a hint to begin at `kbps` instead of Chromium's 300, so that a camera is sharp
 * from its first second. Browsers that do not know the hint ignore it.
 */
export function withStartBitrate(answer: string, kbps: number): string {
  const video = answer.match(/^m=video \S+ \S+ (\d+)/m)?.[1];
  if (video === undefined) return answer;
  const hint = `x-google-start-bitrate=${kbps}`;
  const fmtp = new RegExp(`^a=fmtp:${video} [^\\r\\n]*`, "m");
  if (fmtp.test(answer)) return answer.replace(fmtp, (found) => `${found};${hint}`);
  const rtpmap = new RegExp(`^a=rtpmap:${video} [^\\r\\n]*`, "m");
  return answer.replace(rtpmap, (found) => `${found}\r\na=fmtp:${video} ${hint}`);
}
