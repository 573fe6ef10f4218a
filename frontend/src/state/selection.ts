import { computed, effect, signal } from "@preact/signals";
import { cameraOn, streamName } from "./camera";
import { streams } from "./server";

/** What the user chose to watch; kept in the address, so that it can be shared and outlasts a reload. */
export const chosen = signal<string | null>(fromAddress());
const fallback = signal<string | null>(null);

/** The stream in the big picture. */
export const watched = computed(() => chosen.value ?? fallback.value);

function fromAddress(): string | null {
  return decodeURIComponent(location.hash.slice(1)) || null;
}

export function watch(name: string | null): void {
  chosen.value = name;
  history.replaceState(
    null,
    "",
    name === null ? location.pathname : `#${encodeURIComponent(name)}`,
  );
}

/** Without a choice the big picture shows the first live stream, and stays with it. */
export function followSelection(): void {
  window.addEventListener("hashchange", () => {
    chosen.value = fromAddress();
  });
  effect(() => {
    const list = streams.value;
    const kept = fallback.peek();
    if (kept !== null && list.some(({ name }) => name === kept)) return;
    fallback.value = (list.find(({ state }) => state === "live") ?? list[0])?.name ?? null;
  });
  let wasOn = false;
  effect(() => {
    if (cameraOn.value && !wasOn) watch(streamName.peek());
    if (!cameraOn.value && wasOn && chosen.peek() === streamName.peek()) watch(null);
    wasOn = cameraOn.value;
  });
}
