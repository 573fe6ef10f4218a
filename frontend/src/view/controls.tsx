import { useState } from "preact/hooks";
import {
  asking,
  cameraId,
  cameraOn,
  cameras,
  chooseCamera,
  publishing,
  RESOLUTIONS,
  resolution,
  sendSample,
  setStreamName,
  startCamera,
  stopCamera,
  streamName,
} from "../state/camera";
import { nameFault, tidyName } from "../state/validate";
import { CameraIcon, StopIcon } from "./icons";

function CameraSelect() {
  const choices = cameras.value.filter(({ deviceId }) => deviceId !== "");
  return (
    <label class="field">
      <span>Camera</span>
      <select
        data-testid="camera-select"
        value={cameraId.value}
        onChange={({ currentTarget }) => void chooseCamera(currentTarget.value, resolution.value)}
      >
        {!choices.some(({ deviceId }) => deviceId === cameraId.value) && (
          <option value={cameraId.value}>Default camera</option>
        )}
        {choices.map(({ deviceId, label }, index) => (
          <option key={deviceId} value={deviceId}>
            {label || `Camera ${index + 1}`}
          </option>
        ))}
      </select>
    </label>
  );
}

function ResolutionSelect() {
  return (
    <label class="field">
      <span>Picture</span>
      <select
        data-testid="resolution-select"
        value={resolution.value.label}
        onChange={({ currentTarget }) => {
          const size = RESOLUTIONS.find(({ label }) => label === currentTarget.value);
          if (size !== undefined) void chooseCamera(cameraId.value, size);
        }}
      >
        {RESOLUTIONS.map(({ label }) => (
          <option key={label} value={label}>
            {label}
          </option>
        ))}
      </select>
    </label>
  );
}

function NameField({
  fault,
  onFault,
}: {
  fault: string | null;
  onFault: (f: string | null) => void;
}) {
  return (
    <label class="field name">
      <span>Stream name</span>
      <input
        data-testid="stream-name"
        value={streamName.value}
        disabled={cameraOn.value}
        maxLength={63}
        spellcheck={false}
        autocomplete="off"
        autocapitalize="none"
        aria-invalid={fault !== null}
        aria-describedby="stream-name-fault"
        onInput={({ currentTarget }) => {
          const name = tidyName(currentTarget.value);
          currentTarget.value = name;
          setStreamName(name);
          onFault(nameFault(name));
        }}
      />
      <small id="stream-name-fault" class="fault" aria-live="polite">
        {fault}
      </small>
    </label>
  );
}

const LIMITED: Record<string, string> = {
  cpu: "This device is busy: its browser sends a smaller picture.",
  bandwidth: "The network is slow: the browser sends a smaller picture.",
};

/** Start and stop of this device's camera, and what to send. */
export function Controls() {
  const [fault, setFault] = useState<string | null>(null);
  const on = cameraOn.value;
  const limited = LIMITED[sendSample.value?.limitation ?? ""];
  return (
    <section class={on ? "controls on" : "controls"} aria-label="Your camera">
      {on ? (
        <button type="button" class="button stop" data-testid="stop-camera" onClick={stopCamera}>
          <StopIcon /> Stop camera
        </button>
      ) : (
        <button
          type="button"
          class="button primary"
          data-testid="start-camera"
          disabled={asking.value}
          onClick={() => {
            const wrong = nameFault(streamName.value);
            setFault(wrong);
            if (wrong === null) void startCamera();
          }}
        >
          <CameraIcon /> {asking.value ? "Allow the camera…" : "Start camera"}
        </button>
      )}
      <CameraSelect />
      <ResolutionSelect />
      <NameField fault={fault} onFault={setFault} />
      {on && publishing.value.phase === "live" && limited && <p class="hint wide">{limited}</p>}
    </section>
  );
}
