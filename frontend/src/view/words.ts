import type { FaceOut, Label, StreamStatus } from "../api/types";
import { LABELS } from "../api/types";

/** The words that the server draws too: `WORDS` in annotate/overlay.py. */
export const VERDICT_WORDS: Record<Label, string> = {
  with_mask: "Mask",
  without_mask: "No mask",
  incorrect: "Worn wrong",
  uncertain: "Uncertain",
};

export function countVerdicts(faces: readonly FaceOut[]): Record<Label, number> {
  const counts: Record<Label, number> = {
    with_mask: 0,
    without_mask: 0,
    incorrect: 0,
    uncertain: 0,
  };
  for (const { label } of faces) counts[label] += 1;
  return counts;
}

/** "3 faces: 2 mask, 1 no mask", for people who hear the page. */
export function facesSentence(faces: readonly FaceOut[]): string {
  if (faces.length === 0) return "No face in the picture";
  const counts = countVerdicts(faces);
  const parts = LABELS.filter((label) => counts[label] > 0).map(
    (label) => `${counts[label]} ${VERDICT_WORDS[label].toLowerCase()}`,
  );
  return `${faces.length} ${faces.length === 1 ? "face" : "faces"}: ${parts.join(", ")}`;
}

/** Faces in an order that does not jump: by track, else from left to right. */
export function inOrder(faces: readonly FaceOut[]): FaceOut[] {
  return [...faces].sort((a, b) =>
    a.track !== null && b.track !== null ? a.track - b.track : a.box[0] - b.box[0],
  );
}

export function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}

export function seconds(value: number): string {
  const whole = Math.max(0, Math.round(value));
  if (whole < 120) return `${whole} s`;
  return whole < 7200 ? `${Math.round(whole / 60)} min` : `${Math.round(whole / 3600)} h`;
}

export function droppedTotal(dropped: Record<string, number>): number {
  return Object.values(dropped).reduce((sum, count) => sum + count, 0);
}

/** What is written on a box, as the server writes it: "#7 No mask 97 %". */
export function caption({ label, confidence, track }: FaceOut): string {
  const share = label === "uncertain" ? "" : ` ${Math.floor(confidence * 100)} %`;
  return `${track === null ? "" : `#${track} `}${VERDICT_WORDS[label]}${share}`;
}

/** A stream's state in a few plain words. */
export function stateWords(status: StreamStatus): string {
  switch (status.state) {
    case "live":
      return "Live";
    case "connecting":
      return "Connecting…";
    case "waiting":
      return "Waiting for its camera";
    case "ended":
      return "Ended";
    case "stale":
      return "Picture stands still";
    case "retrying":
      return status.retry_in_seconds === null || status.retry_in_seconds < 0.5
        ? "Trying again…"
        : `Trying again in ${seconds(status.retry_in_seconds)}`;
  }
}

/** Why a stream is not live, or for how long its picture is old. */
export function stateStory(status: StreamStatus): string | null {
  if (status.state === "live") return null;
  if (status.state !== "stale" || status.detail) return status.detail;
  const age = status.last_frame_age_seconds;
  return age === null ? null : `no new picture for ${seconds(age)}`;
}
