const KEPT = 20;

interface Trial {
  roundTripMs: number;
  offsetMs: number;
}

/** By how much the server's clock is ahead of this one: the quickest of the last questions tells. */
export class ServerClock {
  private trials: Trial[] = [];

  /** The server's clock said `serverMs` in answer to a question sent at `sentMs` (both Unix). */
  answered(sentMs: number, serverMs: number, nowMs: number): void {
    const roundTripMs = nowMs - sentMs;
    this.trials.push({ roundTripMs, offsetMs: serverMs - (sentMs + roundTripMs / 2) });
    if (this.trials.length > KEPT) this.trials.shift();
  }

  /** Milliseconds to add to this clock, and how far off that may be; null while unknown. */
  get offset(): { ms: number; withinMs: number } | null {
    const [first, ...others] = this.trials;
    if (first === undefined) return null;
    const best = others.reduce((a, b) => (b.roundTripMs < a.roundTripMs ? b : a), first);
    return { ms: best.offsetMs, withinMs: best.roundTripMs / 2 };
  }
}
