import { type ReadonlySignal, signal } from "@preact/signals";
import { Problem } from "../api/client";
import { backoffMs } from "./backoff";
import type { EndReason, Peer } from "./peer";

export type LinkState =
  | { phase: "idle" }
  | { phase: "connecting"; attempt: number }
  | { phase: "live" }
  | { phase: "waiting"; attempt: number; reason: string }
  | { phase: "failed"; problem: Problem };

/** A peer that lived this long was good: the next loss starts the backoff anew. */
const GOOD_AFTER_MS = 5000;

export interface LinkOptions {
  open: (signal: AbortSignal) => Promise<Peer>;
  /** Whether to go on after this refusal; `everLive` tells a first start from a reconnection. */
  retries: (problem: Problem, everLive: boolean) => boolean;
  /** Asked when the other side closed a live peer: a problem here ends the link. */
  onClosed?: (reason: EndReason) => Promise<Problem | null>;
  delay?: (attempt: number) => number;
}

/** Keeps one peer alive: opens it, watches it, opens it again after a growing wait. */
export class Link {
  private readonly current = signal<LinkState>({ phase: "idle" });
  private peer: Peer | null = null;
  private run: AbortController | null = null;
  private wake: () => void = () => {};

  constructor(private readonly options: LinkOptions) {}

  get state(): ReadonlySignal<LinkState> {
    return this.current;
  }

  get connection(): RTCPeerConnection | null {
    return this.peer?.pc ?? null;
  }

  start(): void {
    if (this.run !== null) return;
    this.run = new AbortController();
    void this.keep(this.run.signal);
  }

  stop(): void {
    this.run?.abort(new DOMException("stopped", "AbortError"));
    this.run = null;
    this.wake();
    this.drop();
    this.current.value = { phase: "idle" };
  }

  /** Tries at once if it is waiting for its next attempt. */
  nudge(): void {
    this.wake();
  }

  /** Starts over with a fresh peer: the server at the other end is a new one. */
  restart(): void {
    if (this.run === null) return;
    this.stop();
    this.start();
  }

  private drop(): void {
    this.peer?.close();
    this.peer = null;
  }

  private async keep(signal: AbortSignal): Promise<void> {
    let attempt = 0;
    let everLive = false;
    while (!signal.aborted) {
      this.current.value = { phase: "connecting", attempt };
      let problem: Problem;
      try {
        const peer = await this.options.open(signal);
        if (signal.aborted) return peer.close();
        this.peer = peer;
        everLive = true;
        this.current.value = { phase: "live" };
        const since = Date.now();
        const reason = await peer.ended;
        if (signal.aborted) return;
        if (Date.now() - since >= GOOD_AFTER_MS) attempt = 0;
        this.drop();
        const final = (await this.options.onClosed?.(reason)) ?? null;
        if (signal.aborted) return;
        if (final !== null) return this.fail(final);
        problem = new Problem(0, "The connection to the server was lost.");
      } catch (error) {
        if (signal.aborted) return;
        problem = error instanceof Problem ? error : new Problem(0, String(error));
        if (!this.options.retries(problem, everLive)) return this.fail(problem);
      }
      this.current.value = { phase: "waiting", attempt, reason: problem.message };
      await this.pause((this.options.delay ?? backoffMs)(attempt));
      attempt += 1;
    }
  }

  private fail(problem: Problem): void {
    this.run = null;
    this.current.value = { phase: "failed", problem };
  }

  private pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
