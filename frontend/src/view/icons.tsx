import type { ComponentChildren } from "preact";
import type { Label } from "../api/types";

function Icon({ children, size = 20 }: { children: ComponentChildren; size?: number }) {
  return (
    <svg
      viewBox="0 0 24 24"
      width={size}
      height={size}
      fill="none"
      stroke="currentColor"
      stroke-width="1.8"
      stroke-linecap="round"
      stroke-linejoin="round"
      aria-hidden="true"
    >
      {children}
    </svg>
  );
}

const EYES = (
  <>
    <circle cx="8.7" cy="9" r=".9" fill="currentColor" stroke="none" />
    <circle cx="15.3" cy="9" r=".9" fill="currentColor" stroke="none" />
  </>
);
const HEAD = <circle cx="12" cy="12" r="9.2" />;

/** A face as its verdict has it: the shape tells them apart without colour. */
export function VerdictIcon({ label, size }: { label: Label; size?: number }) {
  const props = size === undefined ? {} : { size };
  switch (label) {
    case "with_mask":
      return (
        <Icon {...props}>
          {HEAD}
          {EYES}
          <path
            d="M3.2 12.4 12 11.3l8.8 1.1M6.7 12.1v2.7c0 2.3 2.4 4.2 5.3 4.2s5.3-1.9 5.3-4.2v-2.7L12 11.3z"
            fill="currentColor"
            fill-opacity=".32"
          />
        </Icon>
      );
    case "without_mask":
      return (
        <Icon {...props}>
          {HEAD}
          {EYES}
          <path d="M9 15.6h6" />
        </Icon>
      );
    case "incorrect":
      return (
        <Icon {...props}>
          {HEAD}
          {EYES}
          <path d="M12 9.8v2.7h1" />
          <path
            d="M4 16.2 12 15l8 1.2M7.3 15.9c.5 2.3 2.4 3.6 4.7 3.6s4.2-1.3 4.7-3.6L12 15z"
            fill="currentColor"
            fill-opacity=".32"
          />
        </Icon>
      );
    case "uncertain":
      return (
        <Icon {...props}>
          <circle cx="12" cy="12" r="9.2" stroke-dasharray="3.6 2.2" />
          <path d="M9.5 9.6a2.6 2.6 0 1 1 3.7 2.4c-.8.4-1.2.9-1.2 1.8" />
          <circle cx="12" cy="16.7" r=".9" fill="currentColor" stroke="none" />
        </Icon>
      );
  }
}

export function Logo() {
  return (
    <svg viewBox="0 0 32 32" width="32" height="32" aria-hidden="true">
      <rect width="32" height="32" rx="9" fill="var(--brand)" />
      <circle cx="16" cy="15.5" r="9.5" fill="none" stroke="var(--on-brand)" stroke-width="2" />
      <path
        d="M7.5 15.5c3-1.6 5.6-2.4 8.5-2.4s5.5.8 8.5 2.4c0 5-3.5 9.3-8.5 9.3s-8.5-4.3-8.5-9.3z"
        fill="var(--on-brand)"
      />
      <circle cx="12.4" cy="10.7" r="1.2" fill="var(--on-brand)" />
      <circle cx="19.6" cy="10.7" r="1.2" fill="var(--on-brand)" />
    </svg>
  );
}

export const CameraIcon = ({ size = 20 }: { size?: number }) => (
  <Icon size={size}>
    <rect x="2.5" y="6" width="13" height="12" rx="2.5" />
    <path d="m15.5 10.5 6-3v9l-6-3" />
  </Icon>
);
export const StopIcon = () => (
  <Icon>
    <rect x="6" y="6" width="12" height="12" rx="2" fill="currentColor" />
  </Icon>
);
export const BinIcon = () => (
  <Icon size={18}>
    <path d="M4 7h16M10 11v6M14 11v6M6 7l1 12.5h10L18 7M9 7V4.5h6V7" />
  </Icon>
);
export const PlusIcon = () => (
  <Icon>
    <path d="M12 5v14M5 12h14" />
  </Icon>
);
export const WarningIcon = () => (
  <Icon size={22}>
    <path d="M12 4 2.8 19.5h18.4zM12 10v4.5" />
    <circle cx="12" cy="17" r=".6" fill="currentColor" />
  </Icon>
);
export const CloseIcon = () => (
  <Icon size={18}>
    <path d="m6 6 12 12M18 6 6 18" />
  </Icon>
);
export const ThemeIcon = () => (
  <Icon>
    <circle cx="12" cy="12" r="8.5" />
    <path d="M12 3.5a8.5 8.5 0 0 1 0 17z" fill="currentColor" />
  </Icon>
);
