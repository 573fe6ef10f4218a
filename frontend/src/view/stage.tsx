import type { Signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { serviceUrl } from "../api/client";
import type { StreamStatus } from "../api/types";
import { cameraOn, localPicture, publishing, streamName } from "../state/camera";
import { watch, watched } from "../state/selection";
import { serverLink, streamNamed } from "../state/server";
import type { Viewer } from "../state/viewers";
import { labelsShown, ownPicture, tellsFrames } from "../state/views";
import { CameraIcon } from "./icons";
import { Video } from "./picture";
import { type StageState, stageState } from "./stage-state";

const MJPEG_FPS = 10;

function MotionPictures({ name }: { name: string }) {
  const element = useRef<HTMLImageElement>(null);
  useEffect(() => {
    const image = element.current;
    // A removed image goes on loading until it is collected: end its request now.
    return () => image?.removeAttribute("src");
  }, []);
  const url = serviceUrl(`streams/${name}.mjpg?fps=${MJPEG_FPS}`);
  return <img ref={element} class="picture" src={url} alt={`${name}, plain pictures`} />;
}

function Empty() {
  return (
    <div class="stage-empty">
      <CameraIcon size={56} />
      <h2>Point a camera at a face</h2>
      <p>
        Press <b>Start camera</b> to send this device's picture to <b>{location.host}</b> and see it
        come back with every face boxed and named. Or add an IP camera below.
      </p>
    </div>
  );
}

function Curtain({ state, title, text }: StageState) {
  if (state === "live" || state === "empty") return null;
  const low = state === "stale" || state === "pictures";
  const busy = state === "connecting" || state === "reconnecting" || state === "lost";
  return (
    <div class={low ? "curtain low" : "curtain"}>
      {busy && <span class="spinner" aria-hidden="true" />}
      <strong>{title}</strong>
      {text && <span>{text}</span>}
      {state === "missing" && (
        <button type="button" class="button quiet" onClick={() => watch(null)}>
          Show another stream
        </button>
      )}
    </div>
  );
}

function Switch({
  on,
  label,
  hint,
  testId,
  refused = false,
}: {
  on: Signal<boolean>;
  label: string;
  hint: string;
  testId: string;
  refused?: boolean;
}) {
  return (
    <button
      type="button"
      class="switch"
      data-testid={testId}
      aria-pressed={on.value && !refused}
      title={hint}
      aria-disabled={refused}
      onClick={() => {
        on.value = !on.value;
      }}
    >
      {label}
    </button>
  );
}

/** The camera's own picture instead of the annotated one, and the words on the boxes. */
function Views({ status, viewer }: { status: StreamStatus; viewer: Viewer | null }) {
  const { reason } = status.source_view;
  const refusal = tellsFrames
    ? (reason ?? viewer?.refusal.value ?? null)
    : "this browser does not tell which frame it shows";
  const refused = refusal !== null && viewer?.view.value !== "source";
  return (
    <div class="views">
      {viewer?.view.value === "source" && (
        <Switch
          on={labelsShown}
          label="Labels"
          hint="Write the verdicts on the boxes."
          testId="labels"
        />
      )}
      <Switch
        on={ownPicture}
        label="Original"
        hint={
          !refused
            ? "The camera's own picture in full quality, with the boxes drawn here."
            : `Only the annotated picture: ${refusal}.`
        }
        testId="original"
        refused={refused}
      />
    </div>
  );
}

function readState(name: string | null, viewer: Viewer | null): StageState {
  const own = cameraOn.value && name === streamName.value ? publishing.value : null;
  return stageState({
    name,
    server: serverLink.value,
    status: name === null ? undefined : streamNamed(name),
    own,
    viewer: viewer?.state.value ?? null,
    fallsBack: viewer?.fallsBack.value ?? false,
    hasPicture: (viewer?.sample.value?.decoded ?? 0) > 0,
    stillSeconds: viewer?.stillSeconds.value ?? 0,
  });
}

/** The stream to open for the big picture: none while there is nothing to see. */
export function watchable(name: string | null): string | null {
  if (name === null) return null;
  const own = cameraOn.value && name === streamName.value;
  const status = streamNamed(name);
  if (own) return publishing.value.phase === "live" || status !== undefined ? name : null;
  return status !== undefined && status.state !== "ended" ? name : null;
}

/** The big picture with everything that can be said of its state. */
export function Stage({ viewer }: { viewer: Viewer | null }) {
  const name = watched.value;
  const shown = readState(name, viewer);
  const status = name === null ? undefined : streamNamed(name);
  const own = cameraOn.value && name === streamName.value;
  const preview = own && (shown.state === "connecting" || shown.state === "reconnecting");
  return (
    <section
      class="stage"
      data-testid="stage"
      data-state={shown.state}
      aria-label="Live picture"
      style={status && status.width > 0 ? { "--ratio": status.width / status.height } : {}}
    >
      {shown.state === "empty" && <Empty />}
      {viewer !== null && !preview && shown.state !== "pictures" && (
        <Video
          stream={viewer.picture.value}
          viewer={viewer}
          label={`${name}, live with verdicts`}
          testId="live-video"
        />
      )}
      {preview && <Video stream={localPicture.value} label="Your camera, not analysed" mirrored />}
      {shown.state === "pictures" && name !== null && <MotionPictures name={name} />}
      <Curtain {...shown} />
      {name !== null && (
        <div class="stage-name">
          <span class={`dot ${status?.state ?? "off"}`} aria-hidden="true" />
          <span class="full">{name}</span>
          {own && <span class="own">your camera</span>}
        </div>
      )}
      {status !== undefined && shown.state === "live" && <Views status={status} viewer={viewer} />}
      <p class="unseen" role="status">
        {[shown.title, shown.text].filter(Boolean).join(" ")}
      </p>
    </section>
  );
}
