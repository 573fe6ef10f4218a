interface Parts {
  /** The stream is this browser's own camera: its way to the server counts too. */
  own: boolean;
  server: number | null;
  rtt: number | null;
  playout: number | null;
  encode: number | null;
  /** From the arrival at the server to this screen, by two clocks compared. */
  age: { ms: number; withinMs: number } | null;
}

interface LatencyFigure {
  value: string;
  note: string;
  hint: string;
}

/** Each frame's capture time is known from its verdicts, the server's clock from its answers. */
function measured(
  { ms, withinMs }: { ms: number; withinMs: number },
  server: number,
  rtt: number | null,
): LatencyFigure {
  return {
    value: ms.toFixed(0),
    note: `server ${server.toFixed(0)}${rttNote(rtt)}`,
    hint: `Measured from the picture's arrival at the server to this screen, to within ${Math.ceil(withinMs)} ms; median of the last frames. The camera's own delay is not in it.`,
  };
}

function rttNote(rtt: number | null): string {
  return rtt === null ? "" : ` · rtt ${rtt.toFixed(0)}`;
}

/**
 * An estimate of the picture's age, summed from parts that one clock measured each, as the
 * server's clock and the browser's may differ by more than the whole. For the own camera from
 * capture to the screen here, for others from the arrival at the server.
 */
export function latencyOf(known: Parts): LatencyFigure {
  const { own, server, rtt, playout, encode, age } = known;
  if (server === null) {
    return { value: "–", note: "", hint: "Known once the stream is live." };
  }
  if (age !== null && !own) return measured(age, server, rtt);
  const network = rtt === null ? 0 : own ? rtt : rtt / 2;
  const total = server + network + (playout ?? 0) + (own ? (encode ?? 0) : 0);
  const parts = [
    own && encode !== null ? `encoding here ${encode.toFixed(0)} ms` : null,
    rtt === null ? null : `network ${network.toFixed(0)} ms (round trip ${rtt.toFixed(0)} ms)`,
    `server, capture to result ${server.toFixed(0)} ms`,
    playout === null ? null : `buffer and decoding here ${playout.toFixed(0)} ms`,
  ].filter((part) => part !== null);
  return {
    value: `≈ ${total.toFixed(0)}`,
    note: `server ${server.toFixed(0)}${rttNote(rtt)}`,
    hint: [
      own
        ? "Estimate from your camera to this screen, without the camera's and the screen's own delay:"
        : "Estimate from the picture's arrival at the server to this screen:",
      ...parts,
    ].join("\n"),
  };
}
