import { computed, signal } from "@preact/signals";
import { watched } from "./selection";
import { streams } from "./server";

/** Live video at most in so many tiles at once; the others show a picture each second. */
const MOST_LIVE_TILES = 6;

const inSight = signal<ReadonlySet<string>>(new Set());
const pageVisible = signal(document.visibilityState === "visible");

document.addEventListener("visibilitychange", () => {
  pageVisible.value = document.visibilityState === "visible";
});

export function setInSight(name: string, seen: boolean): void {
  if (inSight.peek().has(name) === seen) return;
  const next = new Set(inSight.peek());
  if (seen) next.add(name);
  else next.delete(name);
  inSight.value = next;
}

export type TileMode = "video" | "snapshots" | "nothing";

/** How each tile shows its stream. The one in the big picture shares that one's connection. */
export const tileModes = computed(() => {
  const modes = new Map<string, TileMode>();
  let live = 0;
  for (const { name, state } of streams.value) {
    const flows = state === "live" || state === "stale";
    if (!flows || !pageVisible.value || !inSight.value.has(name)) modes.set(name, "nothing");
    else if (name === watched.value || live++ < MOST_LIVE_TILES) modes.set(name, "video");
    else modes.set(name, "snapshots");
  }
  return modes;
});
