import { useRef, useState } from "preact/hooks";
import { addStream } from "../api/client";
import { info } from "../state/server";
import { nameFault, tidyName, urlFault, withCredentials, withoutSecrets } from "../state/validate";
import { PlusIcon } from "./icons";

/** What the server takes if it has not told yet. */
const USUAL_SCHEMES = ["rtsp", "rtsps"];

interface Entry {
  name: string;
  url: string;
  user: string;
  password: string;
  hidden: boolean;
}
const NOTHING: Entry = { name: "", url: "", user: "", password: "", hidden: false };

/** The form that adds a camera by its address. */
export function AddCamera() {
  const [entry, setEntry] = useState(NOTHING);
  const [fault, setFault] = useState<string | null>(null);
  const [added, setAdded] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const nameInput = useRef<HTMLInputElement>(null);
  const change = (part: Partial<Entry>) => {
    setEntry((before) => ({ ...before, ...part }));
    setFault(null);
    setAdded(null);
  };
  const submit = async (event: Event) => {
    event.preventDefault();
    const name = entry.name;
    const url = entry.url.trim();
    const schemes = info.value?.source_schemes ?? USUAL_SCHEMES;
    const wrong = nameFault(name) ?? urlFault(url, schemes);
    setFault(wrong);
    if (wrong !== null) return;
    setBusy(true);
    try {
      const whole = withCredentials(url, entry.user, entry.password);
      await addStream(name, whole, entry.hidden ? "blur" : "none");
      setEntry(NOTHING);
      setAdded(name);
      nameInput.current?.focus();
    } catch (error) {
      const told = error instanceof Error ? error.message : String(error);
      setFault(withoutSecrets(told, url, entry.password));
    } finally {
      setBusy(false);
    }
  };
  return (
    <form class="add" onSubmit={(event) => void submit(event)} noValidate>
      <h3>Add a camera</h3>
      <div class="add-fields">
        <label class="field">
          <span>Name</span>
          <input
            ref={nameInput}
            data-testid="add-name"
            value={entry.name}
            placeholder="front-door"
            maxLength={63}
            spellcheck={false}
            autocomplete="off"
            autocapitalize="none"
            aria-describedby="add-fault"
            onInput={({ currentTarget }) => change({ name: tidyName(currentTarget.value) })}
          />
        </label>
        <label class="field address">
          <span>Address</span>
          <input
            data-testid="add-url"
            value={entry.url}
            placeholder="rtsp://192.168.1.20:554/stream1"
            inputMode="url"
            spellcheck={false}
            autocomplete="off"
            autocapitalize="none"
            aria-describedby="add-fault"
            onInput={({ currentTarget }) => change({ url: currentTarget.value })}
          />
        </label>
        <label class="field account">
          <span>User (if it asks)</span>
          <input
            data-testid="add-user"
            value={entry.user}
            spellcheck={false}
            autocomplete="off"
            autocapitalize="none"
            onInput={({ currentTarget }) => change({ user: currentTarget.value })}
          />
        </label>
        <label class="field account">
          <span>Password</span>
          <input
            type="password"
            data-testid="add-password"
            value={entry.password}
            autocomplete="new-password"
            onInput={({ currentTarget }) => change({ password: currentTarget.value })}
          />
        </label>
        <button type="submit" class="button primary" data-testid="add-submit" disabled={busy}>
          <PlusIcon /> {busy ? "Adding…" : "Add"}
        </button>
      </div>
      <label class="tick">
        <input
          type="checkbox"
          data-testid="add-hidden"
          checked={entry.hidden}
          onChange={({ currentTarget }) => change({ hidden: currentTarget.checked })}
        />
        <span>Hide faces from viewers</span>
      </label>
      <div id="add-fault" role="alert">
        {fault && (
          <p class="fault" data-testid="add-error">
            {fault}
          </p>
        )}
      </div>
      <div role="status">{added && <p class="hint">“{added}” was added.</p>}</div>
    </form>
  );
}
