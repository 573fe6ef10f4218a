import { computed, effect, signal } from "@preact/signals";
import { Problem, serviceUrl } from "../api/client";
import { Link } from "../rtc/link";
import { type EndReason, publish } from "../rtc/peer";
import { type Sample, StatsReader } from "../rtc/stats";
import { cameraNotice, insecureNotice, surroundings } from "./camera-errors";
import { clearNotice, notice } from "./notice";
import { iceServers, serverGeneration, serverUp, streamNamed } from "./server";
import { STREAM_NAME } from "./validate";
import { nudgeViewer } from "./viewers";

export interface Resolution {
  label: string;
  width: number;
  height: number;
}

export const RESOLUTIONS: readonly [Resolution, ...Resolution[]] = [
  { label: "640 × 480", width: 640, height: 480 },
  { label: "1280 × 720", width: 1280, height: 720 },
  { label: "1920 × 1080", width: 1920, height: 1080 },
];
const FPS = 30;
const NAME_KEY = "maskstream.stream-name";

/** How long a stream's end may take to be seen by the server: a name still busy is tried again. */
const REMOVAL_SETTLES_MS = 1500;

export const cameras = signal<MediaDeviceInfo[]>([]);
export const cameraId = signal("");
export const resolution = signal<Resolution>(RESOLUTIONS[0]);
export const streamName = signal(rememberedName());
/** The camera's own picture while it is open. */
export const localPicture = signal<MediaStream | null>(null);
export const asking = signal(false);
export const sendSample = signal<Sample | null>(null);

const link = new Link({
  open: (abort) => {
    const track = localPicture.value?.getVideoTracks()[0];
    if (track === undefined) throw new Problem(400, "The camera is closed.");
    return publish(track, serviceUrl(`whip/${streamName.value}`), iceServers(), abort);
  },
  retries: (problem, everLive) =>
    // Our own former session may hold the name until the server sees that it is dead.
    everLive
      ? problem.retryable || problem.status === 409
      : problem.status === 0 || problem.status >= 502,
  onClosed,
});

export const publishing = link.state;
export const cameraOn = computed(() => localPicture.value !== null);

function rememberedName(): string {
  const kept = sessionStorage.getItem(NAME_KEY);
  if (kept !== null && STREAM_NAME.test(kept)) return kept;
  const name = randomName();
  sessionStorage.setItem(NAME_KEY, name);
  return name;
}

function randomName(): string {
  const letters = crypto.getRandomValues(new Uint8Array(4));
  return `browser-${Array.from(letters, (value) => (value % 36).toString(36)).join("")}`;
}

export function setStreamName(name: string): void {
  streamName.value = name;
  if (STREAM_NAME.test(name)) sessionStorage.setItem(NAME_KEY, name);
}

/** A server that closed our session and lists us no more has removed the stream on purpose. */
async function onClosed(reason: EndReason): Promise<Problem | null> {
  if (reason !== "closed-by-server") return null;
  await new Promise((resolve) => setTimeout(resolve, REMOVAL_SETTLES_MS));
  const removed = serverUp.value && streamNamed(streamName.value) === undefined;
  return removed ? new Problem(410, "It was removed on the server.") : null;
}

async function listCameras(): Promise<void> {
  const devices = await navigator.mediaDevices?.enumerateDevices();
  cameras.value = (devices ?? []).filter(({ kind }) => kind === "videoinput");
  if (cameras.value.length > 0) clearNotice("no-camera");
}

async function openCamera(): Promise<MediaStream> {
  const { width, height } = resolution.value;
  const size = { width: { ideal: width }, height: { ideal: height }, frameRate: { ideal: FPS } };
  const which = cameraId.value ? { deviceId: { exact: cameraId.value } } : { facingMode: "user" };
  try {
    return await navigator.mediaDevices.getUserMedia({ video: { ...size, ...which } });
  } catch (error) {
    const gone = error instanceof DOMException && error.name === "OverconstrainedError";
    if (!gone) throw error;
    cameraId.value = "";
    return navigator.mediaDevices.getUserMedia({ video: size });
  }
}

function useCamera(stream: MediaStream): MediaStreamTrack | undefined {
  const track = stream.getVideoTracks()[0];
  localPicture.value = stream;
  if (track === undefined) return undefined;
  track.contentHint = "motion";
  cameraId.value = track.getSettings().deviceId ?? cameraId.value;
  track.addEventListener("ended", () => {
    if (localPicture.value !== stream) return;
    stopCamera();
    notice.value = {
      code: "camera-lost",
      title: "The camera went away",
      text: "It was unplugged, or another program or the system took it. Press Start camera to begin again.",
    };
  });
  return track;
}

/** Asks for the camera and publishes it; false if that came to nothing, and the notice says why. */
export async function startCamera(): Promise<boolean> {
  if (asking.value || cameraOn.value) return false;
  clearNotice();
  const { secure, origin, phone } = surroundings();
  if (!secure) {
    notice.value = insecureNotice(origin);
    return false;
  }
  asking.value = true;
  try {
    useCamera(await openCamera());
  } catch (error) {
    notice.value = cameraNotice(error, { phone });
    return false;
  } finally {
    asking.value = false;
  }
  await listCameras();
  link.start();
  return true;
}

export function stopCamera(): void {
  link.stop();
  for (const track of localPicture.value?.getTracks() ?? []) track.stop();
  localPicture.value = null;
}

/** Changes camera or size; a running stream goes on with the new picture. */
export async function chooseCamera(id: string, size: Resolution): Promise<void> {
  cameraId.value = id;
  resolution.value = size;
  const before = localPicture.value;
  if (before === null) return;
  // Some phones cannot open a second camera while the first is in use.
  for (const track of before.getTracks()) track.stop();
  try {
    const track = useCamera(await openCamera());
    const sender = link.connection?.getSenders()[0];
    if (track !== undefined) await sender?.replaceTrack(track);
  } catch (error) {
    stopCamera();
    notice.value = cameraNotice(error, surroundings());
  }
}

/** A server's detail as a sentence of its own. */
function sentence(detail: string): string {
  const text = detail.charAt(0).toUpperCase() + detail.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

function tellFailure(problem: Problem): void {
  const name = streamName.value;
  stopCamera();
  const withOtherName = {
    label: "Start with another name",
    run: () => {
      setStreamName(randomName());
      void startCamera();
    },
  };
  if (problem.status === 409) {
    notice.value = {
      code: "stream-busy",
      title: `“${name}” is taken`,
      text: sentence(problem.message),
      action: withOtherName,
    };
  } else if (problem.status === 410) {
    notice.value = {
      code: "stream-removed",
      title: `“${name}” was removed`,
      text: "Somebody removed this stream on the server, so your camera was stopped. Press Start camera to begin again.",
    };
  } else if (problem.status === 501) {
    notice.value = {
      code: "no-webrtc",
      title: "This browser cannot send video",
      text: sentence(problem.message),
    };
  } else if (/codec|h\.?264|vp8/i.test(problem.message)) {
    notice.value = {
      code: "codec",
      title: "The server and this browser share no video format",
      text: sentence(problem.message),
    };
  } else {
    notice.value = {
      code: "refused",
      title: "The server refused the camera",
      text: sentence(problem.message),
    };
  }
}

async function watchPermission(): Promise<void> {
  try {
    const status = await navigator.permissions.query({ name: "camera" as PermissionName });
    status.addEventListener("change", () => {
      if (status.state !== "denied") clearNotice("permission-denied");
    });
  } catch {
    // Firefox before 132 cannot be asked about cameras; pressing Start shows how it stands.
  }
}

function keepScreenOn(): void {
  let lock: WakeLockSentinel | null = null;
  const hold = async () => {
    const wanted = cameraOn.value && document.visibilityState === "visible";
    if (wanted && (lock === null || lock.released)) {
      lock = await navigator.wakeLock.request("screen").catch(() => null);
    } else if (!cameraOn.value) {
      await lock?.release();
      lock = null;
    }
  };
  if (!("wakeLock" in navigator)) return;
  effect(() => {
    cameraOn.value;
    void hold();
  });
  document.addEventListener("visibilitychange", () => void hold());
}

/** Watches devices, permission, the server and the publishing link for as long as the page lives. */
export function followCamera(): void {
  if (surroundings().secure) {
    void listCameras();
    navigator.mediaDevices.addEventListener("devicechange", () => void listCameras());
  }
  void watchPermission();
  keepScreenOn();
  effect(() => {
    const state = publishing.value;
    if (state.phase === "failed") tellFailure(state.problem);
    if (state.phase === "live") nudgeViewer(streamName.peek());
  });
  let generation = serverGeneration.value;
  effect(() => {
    if (serverGeneration.value === generation) return;
    generation = serverGeneration.value;
    link.restart();
  });
  effect(() => {
    if (serverUp.value) link.nudge();
  });
  let reader = new StatsReader();
  let read: RTCPeerConnection | null = null;
  setInterval(async () => {
    const pc = link.connection;
    if (pc !== read) reader = new StatsReader();
    read = pc;
    sendSample.value = pc === null ? null : reader.read(await pc.getStats(), performance.now());
  }, 1000);
}
