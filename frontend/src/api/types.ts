/** The server's wire models; the truth is /openapi.json. */

export type Label = "with_mask" | "without_mask" | "incorrect" | "uncertain";
export const LABELS: readonly Label[] = ["with_mask", "without_mask", "incorrect", "uncertain"];

export interface FaceOut {
  /** x, y, width, height in pixels of the stream's picture. */
  box: [number, number, number, number];
  label: Label;
  confidence: number;
  probabilities: { with_mask: number; without_mask: number; incorrect: number };
  detection: number;
  landmarks: [number, number][];
  track: number | null;
}

export interface FrameResult {
  stream: string;
  frame: number;
  /** Unix seconds of the capture, by the server's clock. */
  time: number;
  media_time: number | null;
  width: number;
  height: number;
  /** Capture to result, within the server. */
  latency_ms: number;
  faces: FaceOut[];
  /** The frame's RTP time stamp in this viewer's video; null before the server knows. */
  rtp_time: number | null;
}

export type StreamState = "connecting" | "live" | "stale" | "retrying" | "ended" | "waiting";

/** What viewers see of faces: all, or a mosaic. */
export type Privacy = "none" | "blur";

export interface StreamStatus {
  name: string;
  privacy: Privacy;
  kind: "webrtc" | "rtsp" | "file" | "demo";
  source: string;
  state: StreamState;
  detail: string | null;
  retry_in_seconds: number | null;
  width: number;
  height: number;
  input_fps: number;
  analysed_fps: number;
  published_fps: number;
  frames_in: number;
  /** Frames by "stage/reason". */
  frames_dropped: Record<string, number>;
  viewers: number;
  /** Whether the camera's own video can be watched, and why not. */
  source_view: { available: boolean; reason: string | null };
  reconnects: number;
  restarts: number;
  last_frame_age_seconds: number | null;
  capture_to_result_ms: { p50: number; p95: number } | null;
  faces: FaceOut[];
  created_at: string;
}

export interface IceServer {
  urls: string[];
  username?: string | null;
  credential?: string | null;
}

export interface Info {
  name: string;
  version: string;
  uptime_seconds: number;
  model: { name: string; labels: string[]; input_size: number; uncertain_below: number };
  runtime: { name: string; device: string; precision: string; reason: string };
  detector: { name: string; reason: string };
  ice_servers: IceServer[];
  limits: {
    max_streams: number;
    max_viewers_per_stream: number;
    max_upload_bytes: number;
    max_upload_pixels: number;
  };
  source_schemes: string[];
}
