import { useEffect, useState } from "preact/hooks";
import { notice } from "../state/notice";
import { serverLink } from "../state/server";
import { CloseIcon, WarningIcon } from "./icons";
import { seconds } from "./words";

/** Something about the camera that the user should know and can mend. */
export function NoticeCard() {
  const shown = notice.value;
  return (
    <div role="alert">
      {shown !== null && (
        <div class="notice" data-testid="notice" data-code={shown.code}>
          <WarningIcon />
          <div>
            <strong>{shown.title}</strong>
            <p>{shown.text}</p>
            {shown.action && (
              <button
                type="button"
                class="button quiet"
                data-testid="notice-action"
                onClick={shown.action.run}
              >
                {shown.action.label}
              </button>
            )}
          </div>
          <button
            type="button"
            class="icon-button"
            aria-label="Dismiss this message"
            onClick={() => {
              notice.value = null;
            }}
          >
            <CloseIcon />
          </button>
        </div>
      )}
    </div>
  );
}

function useNow(everyMs: number): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
  return now;
}

function LostFor({ since }: { since: number }) {
  return <span aria-hidden="true"> ({seconds((useNow(1000) - since) / 1000)})</span>;
}

/** Tells that the server is away; gone when all is well. */
export function ServerBanner() {
  const link = serverLink.value;
  return (
    <div role="status">
      {link.phase === "lost" && (
        <div class="banner lost" data-testid="state-banner" data-state="lost">
          <span class="spinner" aria-hidden="true" />
          <span>
            <b>Connection to the server lost.</b> Reconnecting by itself…
            <LostFor since={link.since} />
          </span>
        </div>
      )}
      {link.phase === "not-ready" && (
        <div class="banner" data-testid="state-banner" data-state="not-ready">
          <span class="spinner" aria-hidden="true" />
          <span>
            <b>The server is not ready yet:</b> {link.reason}.
          </span>
        </div>
      )}
    </div>
  );
}
