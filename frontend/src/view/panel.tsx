import { useEffect, useState } from "preact/hooks";
import type { FaceOut, StreamStatus } from "../api/types";
import { cameraOn, sendSample, streamName } from "../state/camera";
import { watched } from "../state/selection";
import { serverUp, streamNamed } from "../state/server";
import type { Viewer } from "../state/viewers";
import { VerdictIcon } from "./icons";
import { latencyOf } from "./latency";
import { droppedTotal, facesSentence, inOrder, percent, VERDICT_WORDS } from "./words";

interface FigureProps {
  name: string;
  value: string;
  unit?: string;
  note?: string;
  hint: string;
  testId?: string;
}

function Figure({ name, value, unit, note, hint, testId }: FigureProps) {
  return (
    <div class="figure" title={hint}>
      <dt>{name}</dt>
      <dd>
        <span data-testid={testId}>
          <b>{value}</b>
          {unit && value !== "–" && <small> {unit}</small>}
        </span>
        {note && <small class="note">{note}</small>}
      </dd>
    </div>
  );
}

function droppedHint(status: StreamStatus | undefined): string {
  const reasons = Object.entries(status?.frames_dropped ?? {}).map(([why, n]) => `${why}: ${n}`);
  return [
    "Frames left out so that the picture stays current: by the server, and by this browser.",
    ...reasons,
  ].join("\n");
}

interface Shown {
  viewer: Viewer | null;
  status: StreamStatus | undefined;
}

function Figures({ viewer, status }: Shown) {
  const own = cameraOn.value && status?.name === streamName.value;
  const sample = status === undefined ? null : (viewer?.sample.value ?? null);
  const serverMs = viewer?.serverMs.value ?? status?.capture_to_result_ms?.p50 ?? null;
  const fps = sample?.fps ?? null;
  const latency = latencyOf({
    own,
    server: status?.state === "live" ? serverMs : null,
    rtt: sample?.rttMs ?? null,
    playout: sample?.playoutMs ?? null,
    encode: sendSample.value?.encodeMs ?? null,
    age: viewer?.age.value ?? null,
  });
  const byServer = droppedTotal(status?.frames_dropped ?? {});
  const here = sample?.dropped ?? 0;
  const width = sample?.width ?? status?.width ?? 0;
  const height = sample?.height ?? status?.height ?? 0;
  return (
    <dl class="figures">
      <Figure
        name="Frames"
        value={fps === null ? "–" : fps.toFixed(fps < 10 ? 1 : 0)}
        unit="fps"
        {...(status ? { note: `${status.analysed_fps.toFixed(0)} analysed` } : {})}
        hint="Pictures decoded here in the last second, and pictures that the server analysed in a second."
        testId="fps"
      />
      <Figure name="Latency" {...latency} unit="ms" testId="latency" />
      <Figure
        name="Dropped"
        value={status ? String(byServer + here) : "–"}
        {...(status ? { note: `${byServer} server · ${here} here` } : {})}
        hint={droppedHint(status)}
        testId="dropped"
      />
      <Figure
        name="Picture"
        value={width > 0 ? `${width}×${height}` : "–"}
        {...(status ? { note: viewersNote(status.viewers) } : {})}
        hint="Size of the picture, and how many watch this stream."
        testId="resolution"
      />
    </dl>
  );
}

function viewersNote(viewers: number): string {
  return viewers === 1 ? "1 viewer" : `${viewers} viewers`;
}

const SHARES = ["with_mask", "without_mask", "incorrect"] as const;

function FaceRow({ face }: { face: FaceOut }) {
  const shares = SHARES.map(
    (label) => `${VERDICT_WORDS[label]} ${percent(face.probabilities[label])}`,
  ).join(", ");
  return (
    <li class={`face ${face.label}`} data-verdict={face.label} title={shares}>
      <span class="face-icon">
        <VerdictIcon label={face.label} size={26} />
      </span>
      <span class="face-words">
        <b>{VERDICT_WORDS[face.label]}</b>
        {face.track !== null && <small>#{face.track}</small>}
      </span>
      <span class="face-share">{face.label === "uncertain" ? "" : percent(face.confidence)}</span>
      <span class="bar" aria-hidden="true">
        {SHARES.map((label) => (
          <span key={label} class={label} style={{ flexGrow: face.probabilities[label] }} />
        ))}
      </span>
    </li>
  );
}

const ANNOUNCE_AFTER_MS = 1500;

/** Says a change of the verdicts once it has settled, so that a flicker is not read out. */
function Announcer({ sentence }: { sentence: string }) {
  const [said, setSaid] = useState("");
  useEffect(() => {
    const timer = setTimeout(() => setSaid(sentence), ANNOUNCE_AFTER_MS);
    return () => clearTimeout(timer);
  }, [sentence]);
  return (
    <p class="unseen" role="status">
      {said}
    </p>
  );
}

/** Figures and faces of the stream in the big picture. */
export function Panel({ viewer }: { viewer: Viewer | null }) {
  const name = watched.value;
  const status = name === null ? undefined : streamNamed(name);
  const current = serverUp.value && status?.state === "live";
  const faces = current ? inOrder(viewer?.result.value?.faces ?? status.faces) : [];
  return (
    <aside class="panel" aria-label="Verdicts and figures">
      <Figures viewer={viewer} status={serverUp.value ? status : undefined} />
      <div class="faces-head">
        <h2>Faces</h2>
        {current && <span class="count">{faces.length}</span>}
      </div>
      <ul class="faces" data-testid="faces">
        {faces.map((face, index) => (
          <FaceRow key={face.track ?? `at-${index}`} face={face} />
        ))}
      </ul>
      {faces.length === 0 && (
        <p class="hint">
          {current ? "No face in the picture." : "Verdicts show here as soon as a stream is live."}
        </p>
      )}
      {current && <Announcer sentence={facesSentence(faces)} />}
    </aside>
  );
}
