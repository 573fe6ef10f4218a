import { effect, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import { serviceUrl } from "../api/client";
import type { FrameResult } from "../api/types";
import { Link, type LinkState } from "../rtc/link";
import { play } from "../rtc/peer";
import { median, type Sample, StatsReader, StillWatch } from "../rtc/stats";
import { iceServers, serverGeneration, streamNamed } from "./server";

const LOOK_EVERY_MS = 1000;
/** Faces change up to 30 times a second; people read a tenth of that. */
const SHOW_RESULTS_EVERY_MS = 120;
const LATENCIES_KEPT = 60;
/** A connected viewer of a live stream without a new picture for this long starts over. */
const STUCK_SECONDS = 12;
/** After this many failures in a row the page shows plain pictures meanwhile. */
const FALL_BACK_AFTER = 2;
/** Scrolling past a tile and back should not cost a new connection. */
const LINGER_MS = 2500;

/** One WHEP connection, shared by every place that shows the stream. */
export class Viewer {
  readonly picture: Signal<MediaStream | null> = signal(null);
  readonly result: Signal<FrameResult | null> = signal(null);
  readonly sample: Signal<Sample | null> = signal(null);
  /** Median capture-to-result time of the last results, in the server. */
  readonly serverMs: Signal<number | null> = signal(null);
  /** Seconds without a new picture on a connection that stands. */
  readonly stillSeconds: Signal<number> = signal(0);
  readonly fallsBack: Signal<boolean> = signal(false);

  private readonly link: Link;
  private latencies: number[] = [];
  private newest: FrameResult | null = null;
  private showing: ReturnType<typeof setTimeout> | undefined;
  private looking: ReturnType<typeof setInterval> | undefined;
  private reader = new StatsReader();
  private still = new StillWatch();
  private stopWatching: () => void;

  constructor(readonly name: string) {
    this.link = new Link({
      open: (abort) => this.open(abort),
      // Every refusal may pass: a stream comes back, a viewer leaves, the server restarts.
      retries: () => true,
    });
    const link = this.link;
    this.stopWatching = effect(() => {
      const state = link.state.value;
      if (state.phase === "live") this.fallsBack.value = false;
      else if (state.phase === "waiting" && state.attempt + 1 >= FALL_BACK_AFTER) {
        this.fallsBack.value = true;
      }
    });
    this.looking = setInterval(() => void this.look(), LOOK_EVERY_MS);
    link.start();
  }

  get state(): ReadonlySignal<LinkState> {
    return this.link.state;
  }

  get connection(): RTCPeerConnection | null {
    return this.link.connection;
  }

  nudge(): void {
    this.link.nudge();
  }

  restart(): void {
    this.link.restart();
  }

  close(): void {
    this.stopWatching();
    clearInterval(this.looking);
    clearTimeout(this.showing);
    this.link.stop();
    this.picture.value = null;
  }

  private async open(abort: AbortSignal) {
    this.reader = new StatsReader();
    this.still = new StillWatch();
    return play(
      serviceUrl(`whep/${this.name}`),
      iceServers(),
      abort,
      (stream) => {
        this.picture.value = stream;
      },
      (message) => this.tell(message),
    );
  }

  private tell(message: string): void {
    this.newest = JSON.parse(message) as FrameResult;
    this.latencies.push(this.newest.latency_ms);
    if (this.latencies.length > LATENCIES_KEPT) this.latencies.shift();
    this.showing ??= setTimeout(() => {
      this.showing = undefined;
      this.result.value = this.newest;
    }, SHOW_RESULTS_EVERY_MS);
  }

  private async look(): Promise<void> {
    const pc = this.link.connection;
    if (pc === null) {
      this.sample.value = null;
      this.result.value = null;
      this.serverMs.value = null;
      this.latencies = [];
      return;
    }
    const sample = this.reader.read(await pc.getStats(), performance.now());
    if (pc !== this.link.connection) return;
    this.sample.value = sample;
    this.serverMs.value = median(this.latencies);
    this.stillSeconds.value = this.still.look(sample.decoded, performance.now());
    const flows = streamNamed(this.name)?.state === "live";
    if (flows && this.stillSeconds.value > STUCK_SECONDS) this.link.restart();
  }
}

interface Entry {
  viewer: Viewer;
  users: number;
  linger: ReturnType<typeof setTimeout> | undefined;
}

const entries = new Map<string, Entry>();

/** The viewer of stream `name`, made if there is none; give it back with `releaseViewer`. */
export function acquireViewer(name: string): Viewer {
  const entry = entries.get(name) ?? { viewer: new Viewer(name), users: 0, linger: undefined };
  clearTimeout(entry.linger);
  entry.users += 1;
  entries.set(name, entry);
  return entry.viewer;
}

export function releaseViewer(viewer: Viewer): void {
  const entry = entries.get(viewer.name);
  if (entry?.viewer !== viewer) return;
  entry.users -= 1;
  if (entry.users > 0) return;
  entry.linger = setTimeout(() => {
    entries.delete(viewer.name);
    viewer.close();
  }, LINGER_MS);
}

/** Makes a viewer that waits for its next attempt try now. */
export function nudgeViewer(name: string): void {
  entries.get(name)?.viewer.nudge();
}

/** Restarts every viewer when the server is a new process, whose sessions are not ours. */
export function followGenerations(): void {
  let seen = serverGeneration.value;
  effect(() => {
    if (serverGeneration.value === seen) return;
    seen = serverGeneration.value;
    for (const { viewer } of entries.values()) viewer.restart();
  });
}
