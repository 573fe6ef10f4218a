import { useEffect, useRef, useState } from "preact/hooks";
import { serviceUrl } from "../api/client";
import { acquireViewer, releaseViewer, type Viewer } from "../state/viewers";
import type { Wish } from "../state/views";
import { Overlay, useFrameTimes } from "./overlay";

/** The shared viewer of stream `name` while this component shows it; null for no stream. */
export function useViewer(name: string | null, { view, rendition }: Wish): Viewer | null {
  const [viewer, setViewer] = useState<Viewer | null>(null);
  useEffect(() => {
    if (name === null) return;
    const acquired = acquireViewer(name, { view, rendition });
    setViewer(acquired);
    return () => {
      setViewer(null);
      releaseViewer(acquired);
    };
  }, [name, view, rendition]);
  return viewer;
}

interface VideoProps {
  stream: MediaStream | null;
  label: string;
  viewer?: Viewer;
  mirrored?: boolean;
  testId?: string;
}

/** A live picture. The element carries its connection as `pc`, for tests and for the console. */
export function Video({ stream, label, viewer, mirrored = false, testId }: VideoProps) {
  const element = useRef<HTMLVideoElement>(null);
  useEffect(() => {
    const video = element.current;
    if (video === null) return;
    if (video.srcObject !== stream) video.srcObject = stream;
    Object.defineProperty(video, "pc", {
      configurable: true,
      get: () => viewer?.connection ?? null,
    });
    // Safari pauses a muted live video that was out of sight; playing again needs no gesture.
    const resume = () => void video.play().catch(() => {});
    if (stream !== null) resume();
    document.addEventListener("visibilitychange", resume);
    return () => document.removeEventListener("visibilitychange", resume);
  }, [stream, viewer]);
  useFrameTimes(element, viewer);
  return (
    <>
      <video
        ref={element}
        class={mirrored ? "picture mirrored" : "picture"}
        data-testid={testId}
        aria-label={label}
        autoplay
        muted
        playsInline
        disablePictureInPicture
      />
      {viewer?.view.value === "source" && <Overlay video={element} viewer={viewer} />}
    </>
  );
}

const SNAPSHOT_EVERY_MS = 1000;
const SNAPSHOT_RETRY_MS = 4000;

/** A picture fetched anew each second: what is left where WebRTC does not get through. */
export function Snapshots({ name, label }: { name: string; label: string }) {
  const [shown, setShown] = useState<string | null>(null);
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout>;
    let gone = false;
    const next = () => {
      const image = new Image();
      const url = serviceUrl(`streams/${name}.jpg?at=${Date.now()}`);
      image.onload = () => {
        if (gone) return;
        setShown(url);
        timer = setTimeout(next, SNAPSHOT_EVERY_MS);
      };
      image.onerror = () => {
        if (gone) return;
        setShown(null);
        timer = setTimeout(next, SNAPSHOT_RETRY_MS);
      };
      image.src = url;
    };
    next();
    return () => {
      gone = true;
      clearTimeout(timer);
    };
  }, [name]);
  return shown === null ? null : <img class="picture" src={shown} alt={label} />;
}
