import { backoffMs } from "../rtc/backoff";

/** The server sends a list each second; this long without one means that it is gone. */
const SILENCE_MS = 6000;

export interface EventFeed {
  /** Tries at once if it is waiting for its next attempt. */
  nudge(): void;
  close(): void;
}

export interface FeedHandlers {
  event: (data: string) => void;
  lost: (retryInMs: number) => void;
}

/**
 * Reads the server-sent events `name` of `url` and reconnects for ever. A browser's own
 * reconnection gives up on an HTTP error and never notices a silent server, so this one is ours.
 */
export function readEvents(url: string, name: string, handlers: FeedHandlers): EventFeed {
  let source: EventSource | null = null;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let attempt = 0;

  const connect = () => {
    clearTimeout(timer);
    source?.close();
    source = new EventSource(url);
    source.addEventListener("error", lost);
    source.addEventListener(name, ({ data }: MessageEvent<string>) => {
      attempt = 0;
      watch();
      handlers.event(data);
    });
    watch();
  };
  const watch = () => {
    clearTimeout(timer);
    timer = setTimeout(lost, SILENCE_MS);
  };
  const lost = () => {
    source?.close();
    source = null;
    clearTimeout(timer);
    const delay = backoffMs(attempt++);
    timer = setTimeout(connect, delay);
    handlers.lost(delay);
  };

  connect();
  return {
    nudge: () => {
      if (source === null) connect();
    },
    close: () => {
      clearTimeout(timer);
      source?.close();
    },
  };
}
