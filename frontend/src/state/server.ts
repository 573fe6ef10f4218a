import { computed, signal } from "@preact/signals";
import { getInfo, notReadyReason, serviceUrl } from "../api/client";
import { type EventFeed, readEvents } from "../api/events";
import type { Info, StreamStatus } from "../api/types";

export type ServerLink =
  | { phase: "connecting" }
  | { phase: "up" }
  | { phase: "not-ready"; reason: string }
  | { phase: "lost"; since: number };

export const serverLink = signal<ServerLink>({ phase: "connecting" });
export const streams = signal<StreamStatus[]>([]);
export const info = signal<Info | null>(null);
/** Grows each time the server turns out to be a new process: every session with it is void. */
export const serverGeneration = signal(0);

export const serverUp = computed(() => serverLink.value.phase === "up");

/** Two estimates of the same start may differ by the time the answer took to come. */
const SAME_START_SECONDS = 2.5;
let startedAt: number | null = null;
let feed: EventFeed | null = null;

export function iceServers(): RTCIceServer[] {
  return (info.value?.ice_servers ?? []).map(({ urls, username, credential }) => ({
    urls,
    ...(username ? { username } : {}),
    ...(credential ? { credential } : {}),
  }));
}

export function streamNamed(name: string): StreamStatus | undefined {
  return streams.value.find((status) => status.name === name);
}

async function learn(): Promise<void> {
  const told = await getInfo();
  const started = Date.now() / 1000 - told.uptime_seconds;
  const isNew = startedAt !== null && Math.abs(started - startedAt) > SAME_START_SECONDS;
  startedAt = started;
  info.value = told;
  if (isNew) serverGeneration.value += 1;
}

function arrived(data: string): void {
  streams.value = (JSON.parse(data) as { streams: StreamStatus[] }).streams;
  if (serverLink.value.phase === "up" && info.value !== null) return;
  serverLink.value = { phase: "up" };
  learn().catch(() => {
    // The next event tries again while `info` is missing; a lost server shows in the feed itself.
  });
}

async function lost(): Promise<void> {
  const before = serverLink.value;
  if (before.phase === "up" || before.phase === "connecting") {
    serverLink.value = { phase: "lost", since: Date.now() };
  }
  const reason = await notReadyReason();
  if (serverLink.value.phase === "up") return;
  if (reason !== null) serverLink.value = { phase: "not-ready", reason };
  else if (serverLink.value.phase === "not-ready") {
    serverLink.value = { phase: "lost", since: Date.now() };
  }
}

/** Follows the server's list of streams for as long as the page lives. */
export function followServer(): void {
  feed = readEvents(serviceUrl("api/events"), "streams", {
    event: arrived,
    lost: () => void lost(),
  });
  window.addEventListener("online", () => feed?.nudge());
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") feed?.nudge();
  });
}
