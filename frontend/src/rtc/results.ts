import type { FrameResult } from "../api/types";

/** RTP counts 90000 ticks a second and begins anew after 2^32. */
const TICKS_PER_MS = 90;
const KEPT = 120;
/** Boxes of an earlier frame are better than none for as long as a face can hardly move. */
const HOLD_TICKS = 250 * TICKS_PER_MS;

export interface Found {
  result: FrameResult;
  /** The faces of this very frame, not of one shortly before. */
  exact: boolean;
}

/** Ticks from time stamp `from` to `to`, the short way round. */
function ticks(from: number, to: number): number {
  return (to - from) | 0;
}

/** The last verdicts by the RTP time stamp of their frame; they may come in any order. */
export class Results {
  private byTime = new Map<number, FrameResult>();

  add(result: FrameResult): void {
    if (result.rtp_time === null) return;
    this.byTime.set(result.rtp_time, result);
    for (const oldest of this.byTime.keys()) {
      if (this.byTime.size <= KEPT) break;
      this.byTime.delete(oldest);
    }
  }

  /** The faces of the frame with this time stamp, else of the frame shortly before it. */
  at(rtpTime: number): Found | null {
    const own = this.byTime.get(rtpTime);
    if (own !== undefined) return { result: own, exact: true };
    let nearest = HOLD_TICKS + 1;
    let result: FrameResult | null = null;
    for (const [time, told] of this.byTime) {
      const age = ticks(time, rtpTime);
      if (age > 0 && age < nearest) {
        nearest = age;
        result = told;
      }
    }
    return result === null ? null : { result, exact: false };
  }
}

const MOST_BUFFER_MS = 500;
/** For the ways of a message and a picture, which differ, and for a page that is busy. */
const BUFFER_MARGIN_MS = 40;
const SHRINK_MS = 10;

/**
 * How long a player is to hold a picture back so that its verdicts, which take `latencies` (ms) to
 * be found, are there first: at once longer, slowly shorter, as each change shows as a stutter.
 */
export function bufferFor(latencies: readonly number[], present: number): number {
  if (latencies.length === 0) return present;
  const wanted = Math.min(MOST_BUFFER_MS, Math.ceil(Math.max(...latencies)) + BUFFER_MARGIN_MS);
  return Math.max(wanted, present - SHRINK_MS);
}
