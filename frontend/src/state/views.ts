import { effect, type Signal, signal } from "@preact/signals";

/** What a viewer asks the server for; the parameters of POST /whep/{name}. */
export interface Wish {
  view: "annotated" | "source";
  rendition: "auto" | "thumb";
}

export const THUMB: Wish = { view: "annotated", rendition: "thumb" };

function kept(key: string, otherwise: boolean): Signal<boolean> {
  const value = signal(otherwise);
  try {
    value.value = (localStorage.getItem(key) ?? String(otherwise)) === "true";
    effect(() => localStorage.setItem(key, String(value.value)));
  } catch {
    // Storage may be forbidden; the choice then lasts as long as the page.
  }
  return value;
}

/** The big picture is the camera's own, with the boxes drawn here. */
export const ownPicture = kept("maskstream.own-picture", false);
/** Boxes drawn here have their verdicts written on. */
export const labelsShown = kept("maskstream.labels", true);

/** Boxes can be drawn here only by a browser that tells which frame it shows. */
export const tellsFrames = "requestVideoFrameCallback" in HTMLVideoElement.prototype;

export function bigWish(): Wish {
  return { view: ownPicture.value && tellsFrames ? "source" : "annotated", rendition: "auto" };
}
