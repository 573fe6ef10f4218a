import type { StreamStatus } from "../api/types";
import type { LinkState } from "../rtc/link";
import type { ServerLink } from "../state/server";
import { seconds, stateStory, stateWords } from "./words";

/** How the big picture stands, in one word for tests and in plain words for people. */
export interface StageState {
  state:
    | "live"
    | "stale"
    | "pictures"
    | "connecting"
    | "reconnecting"
    | "lost"
    | "missing"
    | "off"
    | "empty";
  title: string;
  text: string;
}

interface Inputs {
  name: string | null;
  server: ServerLink;
  status: StreamStatus | undefined;
  /** The link of this browser's own camera if that is the stream watched, else null. */
  own: LinkState | null;
  viewer: LinkState | null;
  fallsBack: boolean;
  hasPicture: boolean;
  stillSeconds: number;
}

/** A picture may pause this long before it is said to stand still. */
const STILL_AFTER_SECONDS = 2;

export function stageState(inputs: Inputs): StageState {
  const { name, server, status, own, viewer, fallsBack, hasPicture, stillSeconds } = inputs;
  if (server.phase === "lost" || server.phase === "not-ready") {
    return {
      state: "lost",
      title: "Connection lost",
      text: "Reconnecting by itself; leave this page open.",
    };
  }
  if (name === null) return { state: "empty", title: "", text: "" };
  if (own?.phase === "waiting") {
    return { state: "reconnecting", title: "Reconnecting your camera…", text: own.reason };
  }
  if (own?.phase === "connecting") {
    const again = own.attempt > 0;
    return {
      state: again ? "reconnecting" : "connecting",
      title: again ? "Reconnecting your camera…" : "Sending your camera…",
      text: "This is your own picture, not analysed yet.",
    };
  }
  if (status === undefined && own === null) {
    if (server.phase === "connecting") {
      return { state: "connecting", title: "Connecting to the server…", text: "" };
    }
    return {
      state: "missing",
      title: `“${name}” is not here`,
      text: "The stream was removed, or its camera stopped. It shows again when it comes back.",
    };
  }
  if (status !== undefined && status.state !== "live" && status.state !== "stale") {
    const waitingForOwn = own !== null && status.state !== "ended";
    if (!waitingForOwn) {
      return { state: "off", title: stateWords(status), text: stateStory(status) ?? "" };
    }
  }
  if (fallsBack) {
    const reason = viewer?.phase === "waiting" ? viewer.reason : "";
    return {
      state: "pictures",
      title: "Plain pictures at a lower rate",
      text: `Live video does not get through; it is tried again. ${reason}`.trim(),
    };
  }
  if (viewer === null || viewer.phase !== "live" || !hasPicture) {
    const again =
      viewer?.phase === "waiting" || (viewer?.phase === "connecting" && viewer.attempt > 0);
    return {
      state: again ? "reconnecting" : "connecting",
      title: again ? "Lost the picture, reconnecting…" : "Fetching the picture…",
      text: viewer?.phase === "waiting" ? viewer.reason : "",
    };
  }
  if (status?.state === "stale") {
    return { state: "stale", title: "The picture stands still", text: stateStory(status) ?? "" };
  }
  if (stillSeconds >= STILL_AFTER_SECONDS) {
    return {
      state: "stale",
      title: "The picture stands still",
      text: `no new picture here for ${seconds(stillSeconds)}`,
    };
  }
  return { state: "live", title: "", text: "" };
}
