/** What one look at a connection's statistics tells; null where the browser does not say. */
export interface Sample {
  fps: number | null;
  /** Frames decoded since the connection began. */
  decoded: number;
  dropped: number;
  width: number | null;
  height: number | null;
  rttMs: number | null;
  /** Mean wait in the jitter buffer and mean decoding time of the frames since the last look. */
  playoutMs: number | null;
  /** Mean encoding time since the last look (senders). */
  encodeMs: number | null;
  /** Why the browser sends less than the camera gives: "none", "cpu", "bandwidth", "other". */
  limitation: string | null;
}

type Numbers = Record<string, number | undefined>;

/** Turns successive reports of one `RTCPeerConnection` into rates. */
export class StatsReader {
  private before: Numbers = {};
  private at: number | null = null;

  read(report: Iterable<[string, unknown]>, nowMs: number): Sample {
    const sample: Sample = {
      fps: null,
      decoded: 0,
      dropped: 0,
      width: null,
      height: null,
      rttMs: null,
      playoutMs: null,
      encodeMs: null,
      limitation: null,
    };
    for (const [, entry] of report) {
      const stat = entry as Numbers & { type?: unknown; kind?: unknown; state?: unknown };
      const type = String(stat.type);
      if (type === "inbound-rtp" && String(stat.kind) === "video")
        this.inbound(stat, sample, nowMs);
      else if (type === "outbound-rtp" && String(stat.kind) === "video")
        this.outbound(stat, sample);
      else if (type === "candidate-pair" && String(stat.state) === "succeeded") {
        const rtt = stat["currentRoundTripTime"];
        if (rtt !== undefined && (stat["nominated"] || sample.rttMs === null)) {
          sample.rttMs = rtt * 1000;
        }
      }
    }
    this.at = nowMs;
    return sample;
  }

  private inbound(stat: Numbers, sample: Sample, nowMs: number): void {
    sample.decoded = stat["framesDecoded"] ?? 0;
    sample.dropped = stat["framesDropped"] ?? 0;
    sample.width = stat["frameWidth"] ?? null;
    sample.height = stat["frameHeight"] ?? null;
    const last = this.before["framesDecoded"];
    if (last !== undefined && this.at !== null && nowMs > this.at) {
      sample.fps = ((sample.decoded - last) * 1000) / (nowMs - this.at);
    }
    const buffered = this.mean(stat, "jitterBufferDelay", "jitterBufferEmittedCount");
    const decoding = this.mean(stat, "totalDecodeTime", "framesDecoded");
    if (buffered !== null) sample.playoutMs = buffered + (decoding ?? 0);
    this.remember(stat, [
      "framesDecoded",
      "jitterBufferDelay",
      "jitterBufferEmittedCount",
      "totalDecodeTime",
    ]);
  }

  private outbound(stat: Numbers, sample: Sample): void {
    sample.encodeMs = this.mean(stat, "totalEncodeTime", "framesEncoded");
    const limitation: unknown = stat["qualityLimitationReason"];
    if (typeof limitation === "string") sample.limitation = limitation;
    this.remember(stat, ["totalEncodeTime", "framesEncoded"]);
  }

  /** Milliseconds of `total` (seconds) per unit of `count`, over the time since the last look. */
  private mean(stat: Numbers, total: string, count: string): number | null {
    const units = (stat[count] ?? 0) - (this.before[count] ?? 0);
    const seconds = (stat[total] ?? 0) - (this.before[total] ?? 0);
    return units > 0 ? (seconds * 1000) / units : null;
  }

  private remember(stat: Numbers, keys: string[]): void {
    for (const key of keys) this.before[key] = stat[key];
  }
}

/** Counts for how long the picture has stood still, from the number of frames decoded. */
export class StillWatch {
  private decoded = -1;
  private since: number | null = null;

  /** Seconds since the last new frame. */
  look(decoded: number, nowMs: number): number {
    if (decoded !== this.decoded || this.since === null) {
      this.decoded = decoded;
      this.since = nowMs;
    }
    return (nowMs - this.since) / 1000;
  }
}

/** The middle of the values; null if there are none. */
export function median(values: readonly number[]): number | null {
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  const upper = sorted[half] ?? 0;
  return sorted.length % 2 ? upper : ((sorted[half - 1] ?? upper) + upper) / 2;
}
