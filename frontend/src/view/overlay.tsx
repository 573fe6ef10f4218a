import { useEffect, useRef } from "preact/hooks";
import type { FaceOut, FrameResult, Label } from "../api/types";
import type { Found } from "../rtc/results";
import type { Viewer } from "../state/viewers";
import { labelsShown, tellsFrames } from "../state/views";
import { caption } from "./words";

/** As the server draws them: [box and background, text]. */
const INKS: Record<Label, [string, string]> = {
  with_mask: ["rgb(0 158 115)", "#fff"],
  without_mask: ["rgb(190 20 50)", "#fff"],
  incorrect: ["rgb(245 170 20)", "#111"],
  uncertain: ["rgb(205 205 205)", "#111"],
};

function drawLabel(context: CanvasRenderingContext2D, face: FaceOut, x: number, y: number) {
  const { width, height } = context.canvas;
  const size = Math.round(Math.min(width, height) / 28) + 4;
  const [back, ink] = INKS[face.label];
  const text = caption(face);
  context.font = `600 ${size}px system-ui, sans-serif`;
  const wide = context.measureText(text).width + size * 0.6;
  const high = size * 1.35;
  const left = Math.max(0, Math.min(x, width - wide));
  const top = y >= high ? y - high : y;
  context.fillStyle = back;
  context.fillRect(left, top, wide, high);
  context.fillStyle = ink;
  context.fillText(text, left + size * 0.3, top + size);
}

function draw(canvas: HTMLCanvasElement, result: FrameResult | null, labels: boolean): void {
  const context = canvas.getContext("2d");
  if (context === null) return;
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (result === null || result.width === 0) return;
  const scaleX = canvas.width / result.width;
  const scaleY = canvas.height / result.height;
  context.lineWidth = Math.max(2, Math.round(Math.min(canvas.width, canvas.height) / 160));
  for (const face of result.faces) {
    const [x, y, width, height] = face.box;
    context.strokeStyle = INKS[face.label][0];
    context.strokeRect(x * scaleX, y * scaleY, width * scaleX, height * scaleY);
    if (labels) drawLabel(context, face, x * scaleX, y * scaleY);
  }
}

/** What an overlay drew last; the canvas carries it as `drawn`, for tests and for the console. */
export interface Drawn {
  rtpTime: number;
  found: Found | null;
}

/** Calls back with each frame of `video` as it is shown; returns how to stop. */
function eachFrame(
  video: HTMLVideoElement,
  shown: (metadata: VideoFrameCallbackMetadata) => void,
): () => void {
  if (!tellsFrames) return () => {};
  let handle = 0;
  const next = () => {
    handle = video.requestVideoFrameCallback((_now, metadata) => {
      next();
      shown(metadata);
    });
  };
  next();
  return () => video.cancelVideoFrameCallback(handle);
}

/** Tells the viewer when each of its frames was shown. */
export function useFrameTimes(video: { current: HTMLVideoElement | null }, viewer?: Viewer): void {
  useEffect(() => {
    if (video.current === null || viewer === undefined) return;
    return eachFrame(video.current, (metadata) => viewer.shown(metadata));
  }, [video, viewer]);
}

/** The boxes over a camera's own picture: on each frame those of that very frame. */
export function Overlay({
  video,
  viewer,
}: {
  video: { current: HTMLVideoElement | null };
  viewer: Viewer;
}) {
  const element = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const canvas = element.current;
    if (canvas === null || video.current === null) return;
    return eachFrame(video.current, ({ rtpTimestamp, width, height }) => {
      if (rtpTimestamp === undefined) return;
      if (canvas.width !== width || canvas.height !== height) {
        canvas.width = width;
        canvas.height = height;
      }
      const found = viewer.results.at(rtpTimestamp);
      draw(canvas, found?.result ?? null, labelsShown.value);
      const drawn: Drawn = { rtpTime: rtpTimestamp, found };
      Object.assign(canvas, { drawn });
    });
  }, [video, viewer]);
  return <canvas ref={element} class="picture overlay" data-testid="overlay" />;
}
