import { serviceUrl } from "./api/client";
import { watched } from "./state/selection";
import { info, serverLink } from "./state/server";
import { switchTheme } from "./state/theme";
import { bigWish } from "./state/views";
import { Controls } from "./view/controls";
import { Logo, ThemeIcon } from "./view/icons";
import { NoticeCard, ServerBanner } from "./view/notices";
import { Panel } from "./view/panel";
import { useViewer } from "./view/picture";
import { Stage, watchable } from "./view/stage";
import { Wall } from "./view/wall";

const LINK_WORDS = {
  connecting: "Connecting…",
  up: "Connected",
  "not-ready": "Starting…",
  lost: "Reconnecting…",
} as const;

function Header() {
  const { phase } = serverLink.value;
  return (
    <header class="header" id="top">
      <a class="brand" href="./">
        <Logo />
        <h1>maskstream</h1>
      </a>
      <span class={`pill ${phase}`} data-testid="server-link" data-state={phase}>
        <span class="dot" aria-hidden="true" />
        {LINK_WORDS[phase]}
      </span>
      <button type="button" class="icon-button" aria-label="Light or dark" onClick={switchTheme}>
        <ThemeIcon />
      </button>
    </header>
  );
}

function Footer() {
  const told = info.value;
  return (
    <footer class="footer">
      {told !== null && (
        <p>
          maskstream {told.version} · model {told.model.name} · {told.runtime.name} on{" "}
          {told.runtime.device} ({told.runtime.precision}) · detector {told.detector.name}
        </p>
      )}
      <p>
        <a href={serviceUrl("docs")}>API</a> <a href={serviceUrl("metrics")}>Metrics</a>
      </p>
    </footer>
  );
}

export function App() {
  const viewer = useViewer(watchable(watched.value), bigWish());
  return (
    <>
      <Header />
      <main class="main">
        <ServerBanner />
        <NoticeCard />
        <Controls />
        <div class="view">
          <Stage viewer={viewer} />
          <Panel viewer={viewer} />
        </div>
        <Wall />
      </main>
      <Footer />
    </>
  );
}
