import { effect, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import { Problem, serviceUrl } from "../api/client";
import type { FrameResult } from "../api/types";
import { ServerClock } from "../rtc/clock";
import { Link, type LinkState } from "../rtc/link";
import { type Player, play } from "../rtc/peer";
import { bufferFor, Results } from "../rtc/results";
import { median, type Sample, StatsReader, StillWatch } from "../rtc/stats";
import { iceServers, serverGeneration, streamNamed } from "./server";
import type { Wish } from "./views";

const LOOK_EVERY_MS = 1000;
/** Faces change up to 30 times a second; people read a tenth of that. */
const SHOW_RESULTS_EVERY_MS = 120;
const LATENCIES_KEPT = 150;
/** Until the first verdicts tell how long they take: the server's own default promise. */
const FIRST_BUFFER_MS = 150;
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
  /** What is shown: the annotated pictures also where the camera's own cannot be had. */
  readonly view: Signal<Wish["view"]>;
  /** Why the camera's own picture, which was wished for, is not shown. */
  readonly refusal: Signal<string | null> = signal(null);
  /** Median time from a frame's arrival at the server to this screen, and how exact that is. */
  readonly age: Signal<{ ms: number; withinMs: number } | null> = signal(null);
  readonly results = new Results();

  private readonly link: Link;
  private player: Player | null = null;
  private unavailable = false;
  private clock = new ServerClock();
  private ages: number[] = [];
  private bufferMs = FIRST_BUFFER_MS;
  private latencies: number[] = [];
  private newest: FrameResult | null = null;
  private showing: ReturnType<typeof setTimeout> | undefined;
  private looking: ReturnType<typeof setInterval> | undefined;
  private reader = new StatsReader();
  private still = new StillWatch();
  private stopWatching: () => void;

  constructor(
    readonly name: string,
    readonly wish: Wish,
  ) {
    this.view = signal(wish.view);
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

  /** A frame was shown: the age of its picture is known where its verdicts are. */
  shown({ rtpTimestamp, expectedDisplayTime }: VideoFrameCallbackMetadata): void {
    const found = rtpTimestamp === undefined ? null : this.results.at(rtpTimestamp);
    const offset = this.clock.offset;
    if (!found?.exact || offset === null) return;
    const shownAt = performance.timeOrigin + expectedDisplayTime + offset.ms;
    this.ages.push(shownAt - found.result.time * 1000);
    if (this.ages.length > LATENCIES_KEPT) this.ages.shift();
  }

  private async open(abort: AbortSignal): Promise<Player> {
    this.reader = new StatsReader();
    this.still = new StillWatch();
    this.clock = new ServerClock();
    this.ages = [];
    this.unavailable = false;
    try {
      this.player = await this.play(this.wish.view, abort);
      this.refusal.value = null;
    } catch (error) {
      const refused = error instanceof Problem && (error.status === 409 || error.status === 422);
      if (!refused || this.wish.view !== "source") throw error;
      this.refusal.value = error.message;
      this.unavailable = error.status === 409;
      this.player = await this.play("annotated", abort);
    }
    return this.player;
  }

  private play(view: Wish["view"], abort: AbortSignal): Promise<Player> {
    this.view.value = view;
    this.bufferMs = view === "source" ? FIRST_BUFFER_MS : 0;
    const query = new URLSearchParams({ view, rendition: this.wish.rendition });
    return play(
      serviceUrl(`whep/${this.name}?${query}`),
      iceServers(),
      abort,
      this.bufferMs,
      (stream) => {
        this.picture.value = stream;
      },
      (message) => this.hear(JSON.parse(message)),
    );
  }

  private hear(message: FrameResult | { ping: number; time: number }): void {
    if ("ping" in message) this.clock.answered(message.ping, message.time * 1000, now());
    else this.tell(message);
  }

  private tell(result: FrameResult): void {
    this.newest = result;
    this.results.add(result);
    this.latencies.push(result.latency_ms);
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
      this.age.value = null;
      this.latencies = [];
      return;
    }
    this.keepBuffer();
    this.tellAge();
    const sample = this.reader.read(await pc.getStats(), performance.now());
    if (pc !== this.link.connection) return;
    this.sample.value = sample;
    this.serverMs.value = median(this.latencies);
    this.stillSeconds.value = this.still.look(sample.decoded, performance.now());
    const status = streamNamed(this.name);
    const stuck = status?.state === "live" && this.stillSeconds.value > STUCK_SECONDS;
    // A camera that had sent nothing yet, or was set right, has its own picture now.
    const possibleNow = this.unavailable && status?.source_view.available === true;
    if (stuck || possibleNow) this.link.restart();
  }

  /** A camera's own picture waits for its verdicts; an annotated one has them in it. */
  private keepBuffer(): void {
    if (this.view.value !== "source") return;
    this.bufferMs = bufferFor(this.latencies, this.bufferMs);
    this.player?.buffer(this.bufferMs);
  }

  private tellAge(): void {
    this.player?.say({ ping: now() });
    const offset = this.clock.offset;
    const ms = median(this.ages);
    this.age.value = ms === null || offset === null ? null : { ms, withinMs: offset.withinMs };
    if (ms !== null && ms >= 0) this.player?.say({ shown_after_ms: ms });
  }
}

/** Unix milliseconds by the clock that also times the frames. */
function now(): number {
  return performance.timeOrigin + performance.now();
}

interface Entry {
  viewer: Viewer;
  users: number;
  linger: ReturnType<typeof setTimeout> | undefined;
}

const entries = new Map<string, Entry>();

/** The viewer of stream `name` that wishes this; give it back with `releaseViewer`. */
export function acquireViewer(name: string, wish: Wish): Viewer {
  const key = keyOf(name, wish);
  const made = () => ({ viewer: new Viewer(name, wish), users: 0, linger: undefined });
  const entry = entries.get(key) ?? made();
  clearTimeout(entry.linger);
  entry.users += 1;
  entries.set(key, entry);
  return entry.viewer;
}

export function releaseViewer(viewer: Viewer): void {
  const key = keyOf(viewer.name, viewer.wish);
  const entry = entries.get(key);
  if (entry?.viewer !== viewer) return;
  entry.users -= 1;
  if (entry.users > 0) return;
  entry.linger = setTimeout(() => {
    entries.delete(key);
    viewer.close();
  }, LINGER_MS);
}

function keyOf(name: string, { view, rendition }: Wish): string {
  return `${name} ${view} ${rendition}`;
}

/** Makes a viewer that waits for its next attempt try now. */
export function nudgeViewer(name: string): void {
  for (const { viewer } of entries.values()) if (viewer.name === name) viewer.nudge();
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
