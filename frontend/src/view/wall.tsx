import { useComputed } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { removeStream } from "../api/client";
import type { StreamStatus } from "../api/types";
import { LABELS } from "../api/types";
import { watch, watched } from "../state/selection";
import { serverUp, streams } from "../state/server";
import { bigWish, THUMB } from "../state/views";
import { setInSight, type TileMode, tileModes } from "../state/wall";
import { AddCamera } from "./add-camera";
import { BinIcon, VerdictIcon } from "./icons";
import { Snapshots, useViewer, Video } from "./picture";
import { countVerdicts, stateStory, stateWords, VERDICT_WORDS } from "./words";

function TileVideo({ name }: { name: string }) {
  // The stream of the big picture is here already; the others come small.
  const viewer = useViewer(name, name === watched.value ? bigWish() : THUMB);
  if (viewer === null) return null;
  if (viewer.fallsBack.value)
    return <Snapshots name={name} label={`${name}, a picture a second`} />;
  return <Video stream={viewer.picture.value} viewer={viewer} label={`${name}, live`} />;
}

function TilePicture({ status, mode }: { status: StreamStatus; mode: TileMode }) {
  if (mode === "video") return <TileVideo name={status.name} />;
  if (mode === "snapshots") {
    return <Snapshots name={status.name} label={`${status.name}, a picture a second`} />;
  }
  return null;
}

function VerdictCounts({ status }: { status: StreamStatus }) {
  const counts = countVerdicts(status.faces);
  const seen = LABELS.filter((label) => counts[label] > 0);
  if (seen.length === 0) return <span class="no-face">no face</span>;
  return (
    <>
      {seen.map((label) => (
        <span key={label} class={`chip ${label}`} title={VERDICT_WORDS[label]}>
          <VerdictIcon label={label} size={16} />
          {counts[label]}
          <span class="unseen"> {VERDICT_WORDS[label]}</span>
        </span>
      ))}
    </>
  );
}

function RemoveDialog({ name, onClose }: { name: string; onClose: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [fault, setFault] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  useEffect(() => dialog.current?.showModal(), []);
  const remove = async () => {
    setBusy(true);
    try {
      await removeStream(name);
      onClose();
    } catch (error) {
      setFault(error instanceof Error ? error.message : String(error));
      setBusy(false);
    }
  };
  return (
    <dialog ref={dialog} class="dialog" aria-labelledby="remove-title" onClose={onClose}>
      <h3 id="remove-title">Remove “{name}”?</h3>
      <p>Everyone stops seeing it, and the server forgets its address.</p>
      {fault && (
        <p class="fault" role="alert">
          {fault}
        </p>
      )}
      <div class="dialog-buttons">
        <button type="button" class="button quiet" data-testid="remove-cancel" onClick={onClose}>
          Keep it
        </button>
        <button
          type="button"
          class="button stop"
          data-testid="remove-confirm"
          disabled={busy}
          onClick={() => void remove()}
        >
          Remove
        </button>
      </div>
    </dialog>
  );
}

/** Tells the wall whether this tile is on the screen. */
function useInSight(name: string) {
  const element = useRef<HTMLElement>(null);
  useEffect(() => {
    if (element.current === null) return;
    const observer = new IntersectionObserver(
      ([entry]) => setInSight(name, entry?.isIntersecting ?? false),
      { rootMargin: "80px" },
    );
    observer.observe(element.current);
    return () => {
      observer.disconnect();
      setInSight(name, false);
    };
  }, [name]);
  return element;
}

function Tile({ status }: { status: StreamStatus }) {
  const { name, state } = status;
  const element = useInSight(name);
  const mode = useComputed(() => tileModes.value.get(name) ?? "nothing").value;
  const [removing, setRemoving] = useState(false);
  const away = !serverUp.value;
  const story = away ? null : stateStory(status);
  const words = away ? "Not known now" : stateWords(status);
  const isWatched = watched.value === name;
  return (
    <article
      ref={element}
      class={`tile ${away ? "away" : state} ${isWatched ? "watched" : ""}`}
      data-testid={`tile-${name}`}
      data-state={state}
    >
      <button
        type="button"
        class="tile-picture"
        aria-label={[`Watch ${name}:`, words, story].filter(Boolean).join(" ")}
        aria-pressed={isWatched}
        onClick={() => {
          watch(name);
          document.getElementById("top")?.scrollIntoView({ behavior: "smooth" });
        }}
      >
        <TilePicture status={status} mode={mode} />
        <span class={`badge ${away ? "away" : state}`}>
          <span class="dot" aria-hidden="true" />
          {words}
        </span>
        {story && <span class="tile-story">{story}</span>}
      </button>
      <div class="tile-foot">
        <div class="tile-title">
          <h3 title={name}>{name}</h3>
          <small title={status.source}>{footnote(status)}</small>
        </div>
        <div class="tile-counts">
          {!away && state === "live" && <VerdictCounts status={status} />}
        </div>
        <button
          type="button"
          class="icon-button"
          data-testid={`remove-${name}`}
          aria-label={`Remove ${name}`}
          disabled={away}
          onClick={() => setRemoving(true)}
        >
          <BinIcon />
        </button>
      </div>
      {removing && <RemoveDialog name={name} onClose={() => setRemoving(false)} />}
    </article>
  );
}

const KINDS: Record<StreamStatus["kind"], string> = {
  webrtc: "browser camera",
  rtsp: "IP camera",
  file: "file",
  demo: "demo",
};

function footnote({ kind, input_fps, state }: StreamStatus): string {
  return state === "live" ? `${KINDS[kind]} · ${input_fps.toFixed(0)} fps` : KINDS[kind];
}

/** All streams at a glance, and the way to add one. */
export function Wall() {
  const list = streams.value;
  return (
    <section class="wall-section" aria-labelledby="wall-title">
      <div class="wall-head">
        <h2 id="wall-title">
          All streams <span class="count">{list.length}</span>
        </h2>
      </div>
      <div class="wall" data-testid="wall">
        {list.map((status) => (
          <Tile key={status.name} status={status} />
        ))}
        {list.length === 0 && (
          <p class="wall-empty">
            No streams yet. Press <b>Start camera</b> above, or add an IP camera here.
          </p>
        )}
      </div>
      <AddCamera />
    </section>
  );
}
